-- Forget tasks that were kept for long enough, and take what is due: leases that must start anew;
-- or else tasks that time changes; or else models that perhaps nobody has. Nobody else gets these
-- tasks and models for a while; if nothing is committed by then, they are due again.
--
-- Reads and writes: due, restarting, model_alarms; counts, finished, keys and task through
-- room.lua. Reads: text, runs, running; the queue and the workers.
--
-- ARGV[6]  After how many seconds what is taken now is due again.
--
-- Returns {'ok', now, when the next one is due or '', 1 if there may be more, a list of the
-- stored_tasks whose lease starts anew, a list of {when it was due, stored_task}, a list of {model,
-- its oldest stored_tasks, connected workers with it, when one with it was last seen or '', how
-- many that have it are too old}, all
-- connected workers, since when there are any, the first models that these have}.
local reserve_seconds = tonumber(ARGV[6])
local RESTARTS, TASKS, MODELS, TASKS_OF_A_MODEL = 100, 20, 10, 50
local TASKS_SORTED = 1000
local AFTER_EXTENDED = string.char(string.byte(EXTENDED) + 1)

local function take_restarting()
  local taken = {}
  for _, id in ipairs(call('SRANDMEMBER', prefix .. 'restarting', RESTARTS)) do
    local task = call('SISMEMBER', prefix .. 'running', id) == 1 and stored_task(id, false)
    if task then
      taken[#taken + 1] = task
    else
      call('SREM', prefix .. 'restarting', id)
    end
  end
  return taken
end

-- The tasks that are due, with the times, first due first. Of those that are due at the same time,
-- as leases are after a pause, the oldest goes first; to Redis, 10 comes before 9.
local function due_tasks()
  local found, due = call('ZRANGEBYSCORE', prefix .. 'due', '-inf', as_text(now), 'WITHSCORES',
    'LIMIT', 0, TASKS_SORTED), {}
  for n = 1, #found, 2 do due[#due + 1] = {found[n], found[n + 1]} end
  table.sort(due, function(one, other)
    local at, other_at = tonumber(one[2]), tonumber(other[2])
    return at < other_at or at == other_at and tonumber(one[1]) < tonumber(other[1])
  end)
  return due
end

local function take_tasks()
  local taken = {}
  for n, one in ipairs(due_tasks()) do
    if n > TASKS then break end
    local id, due_at = one[1], one[2]
    local task = stored_task(id, true)
    if task then
      taken[#taken + 1] = {due_at, task}
      call('ZADD', prefix .. 'due', as_text(now + reserve_seconds), id)
    else
      call('ZREM', prefix .. 'due', id)
    end
  end
  return taken
end

local function take_models()
  local taken = {}
  local due = call('ZRANGEBYSCORE', prefix .. 'model_alarms', '-inf', as_text(now),
    'LIMIT', 0, MODELS)
  for _, model in ipairs(due) do
    local oldest = {}
    for _, id in ipairs(call('ZRANGE', prefix .. 'model:' .. model, 0, TASKS_OF_A_MODEL - 1)) do
      oldest[#oldest + 1] = stored_task(id, false)
    end
    if #oldest > 0 then
      local connected = count_connected_with(model)
      taken[#taken + 1] = {model, oldest, connected, last_seen_at(model),
        connected == 0 and count_too_old(model) or 0}
      call('ZADD', prefix .. 'model_alarms', as_text(now + reserve_seconds), model)
    else
      call('ZREM', prefix .. 'model_alarms', model)
    end
  end
  return taken
end

-- The first models of a group that people know by these names: names.is_shown.
local function first_shown(group)
  local key, shown = prefix .. 'group:' .. group, {}
  for _, range in ipairs({{'-', '(' .. EXTENDED}, {'[' .. AFTER_EXTENDED, '+'}}) do
    local names = call('ZRANGEBYLEX', key, range[1], range[2], 'LIMIT', 0, MAX_MODELS_LISTED + 1)
    for _, name in ipairs(names) do shown[#shown + 1] = name end
  end
  return shown
end

local function connected_models()
  local models, is_known = {}, {}
  local workers = call('ZRANGEBYSCORE', prefix .. 'connected', '(' .. as_text(now), '+inf')
  for _, worker in ipairs(workers) do
    local group = call('HGET', prefix .. 'groups', worker)
    if group and not is_known[group] then
      is_known[group] = true
      for _, model in ipairs(first_shown(group)) do models[#models + 1] = model end
    end
  end
  return models
end

local restarting = take_restarting()
local is_more, tasks, models = false, {}, {}
if #restarting == 0 then
  is_more = forget_expired(500) or make_room(0, true, 500)
  tasks = take_tasks()
  if #tasks == 0 then models = take_models() end
end
local next_at = ''
for _, key in ipairs({'due', 'model_alarms'}) do
  local _, at = first_of(key)
  if at and (next_at == '' or at < tonumber(next_at)) then next_at = as_text(at) end
end
return {'ok', as_text(now), next_at, is_more and 1 or 0, restarting, tasks, models,
  count_connected('connected'), call('GET', prefix .. 'connected_since') or '0',
  #models > 0 and connected_models() or {}}
