-- Bring the keys of schemas 1, 2 and 3 up to date: build the indexes that they did not have from the
-- tasks, and keep of the workers of schema 1 only when each model was last there, because they will
-- claim again. All tasks are looked at, once. No Manage Server of the older version may be running.
--
-- Reads and writes everything.
--
-- ARGV[6]  A model as schema 1 named it, followed by what tasks.model_key gives for it; and so on
--          to the last argument.
--
-- Returns {'ok'}; or {'models', a list of models} when it needs these as arguments, too.
local schema = call('GET', prefix .. 'schema')
if schema ~= '1' and schema ~= '2' and schema ~= '3' then return {'ok'} end

local function keys_of(family) return call('KEYS', prefix .. family .. '*') end

-- Schema 3 had nothing that is read otherwise now.
local function bring_to_4()
  call('SET', prefix .. 'schema', '4')
  return {'ok'}
end

local function bring_to_3(task_keys)
  for _, key in ipairs(task_keys) do
    local task = call('HMGET', key, 'o', 'm', 's')
    index_state(string.sub(key, #prefix + #'task:' + 1), task[1], task[2], task[3], 1)
  end
  return bring_to_4()
end

if schema == '3' then return bring_to_4() end
if schema == '2' then return bring_to_3(keys_of('task:')) end

local function delete_all(family)
  for _, key in ipairs(keys_of(family)) do call('DEL', key) end
end

local task_keys, groups = keys_of('task:'), {}
for _, key in ipairs(keys_of('seen:')) do
  local group = string.sub(key, #prefix + #'seen:' + 1)
  groups[group] = group == 'any' and {} or call('SMEMBERS', prefix .. 'group:' .. group)
end

local new_names = {}
for n = 6, #ARGV, 2 do new_names[ARGV[n]] = ARGV[n + 1] end
local unknown = {}
local function must_know(model)
  if new_names[model] then return end
  new_names[model] = model
  unknown[#unknown + 1] = model
end
for _, key in ipairs(task_keys) do must_know(call('HGET', key, 'm')) end
for _, models in pairs(groups) do
  for _, model in ipairs(models) do must_know(model) end
end
if #unknown > 0 then return {'models', unknown} end

local seen = {}
for group in pairs(groups) do
  local _, seen_at = last_of('seen:' .. group)
  seen[group] = as_text(seen_at)
end
for _, family in ipairs({'seen:', 'until:', 'group:', 'has:', 'groups', 'workers', 'connected',
  'share:', 'models:', 'lane:'}) do
  delete_all(family)
end
for group, models in pairs(groups) do
  local names, is_listed = {}, {}
  for _, model in ipairs(models) do
    local name = new_names[model]
    if not is_listed[name] then names[#names + 1], is_listed[name] = name, true end
  end
  create_group(group, names)
  if group ~= 'none' then add_former('', group, seen[group]) end
end

call('HSET', prefix .. 'counts', 'queued', 0, 'running', 0, 'unfinished_bytes', 0, 'owners', 0)
for _, key in ipairs(task_keys) do
  local id = string.sub(key, #prefix + #'task:' + 1)
  local task = call('HMGET', key, 's', 'o', 'm', 'z', 'f')
  local state, owner, size, member = task[1], task[2], tonumber(task[4]), task[5]
  local model = new_names[task[3]]
  call('HSET', key, 'm', model)
  if FINAL[state] then
    local finished_at = call('ZSCORE', prefix .. 'finished', member)
    call('ZADD', prefix .. 'finished:' .. owner, finished_at, member)
    call('ZINCRBY', prefix .. 'finished_bytes', size, owner)
  else
    add_to_count(state, 1)
    add_to_count('unfinished_bytes', size)
    add_to_share(owner, 1, state == 'queued' and 1 or 0, size)
    if state == 'running' then call('SADD', prefix .. 'running', id) end
    if call('ZSCORE', prefix .. 'ready:' .. owner, id) then index_ready(id, owner, model) end
  end
end
call('SUNIONSTORE', prefix .. 'restarting', prefix .. 'running')
return bring_to_3(task_keys)
