-- Bring the keys of schema 1 up to date: build the indexes that it did not have from the tasks, and
-- keep of its workers only when each model was last there, because they will claim again. All
-- tasks are looked at, once. No Manage Server of the older version may be running.
--
-- Reads and writes everything.
--
-- Takes no arguments of its own.
--
-- Returns {'ok'}.
if call('GET', prefix .. 'schema') ~= '1' then return {'ok'} end

local function keys_of(family) return call('KEYS', prefix .. family .. '*') end
local function delete_all(family)
  for _, key in ipairs(keys_of(family)) do call('DEL', key) end
end

for _, seen in ipairs(keys_of('seen:')) do
  local group = string.sub(seen, #prefix + #'seen:' + 1)
  local _, seen_at = last_of('seen:' .. group)
  local models = group == 'any' and {ANY_MODEL} or call('SMEMBERS', prefix .. 'group:' .. group)
  for _, model in ipairs(models) do add_former('', model, as_text(seen_at)) end
end
for _, family in ipairs({'seen:', 'until:', 'group:', 'has:', 'groups', 'workers', 'connected',
  'share:', 'models:'}) do
  delete_all(family)
end

call('HSET', prefix .. 'counts', 'queued', 0, 'running', 0, 'unfinished_bytes', 0, 'owners', 0)
for _, key in ipairs(keys_of('task:')) do
  local id = string.sub(key, #prefix + #'task:' + 1)
  local task = call('HMGET', key, 's', 'o', 'm', 'z', 'f')
  local state, owner, model, size, member = task[1], task[2], task[3], tonumber(task[4]), task[5]
  if FINAL[state] then
    call('ZADD', prefix .. 'finished:' .. owner, call('ZSCORE', prefix .. 'finished', member), member)
    call('ZINCRBY', prefix .. 'finished_bytes', size, owner)
  else
    add_to_count(state, 1)
    add_to_share(owner, state, 1, size)
    if state == 'running' then call('SADD', prefix .. 'running', id) end
    if call('ZSCORE', prefix .. 'ready:' .. owner, id) then index_ready(id, owner, model) end
  end
end
call('SUNIONSTORE', prefix .. 'restarting', prefix .. 'running')
call('SET', prefix .. 'schema', '2')
return {'ok'}
