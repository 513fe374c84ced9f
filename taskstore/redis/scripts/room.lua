-- Counts and room, shared by all scripts. The same rules as in memory/shares.py, memory/finished.py
-- and memory/table.py; compared by tests/store/test_redis_histories.py.

-- What is counted for the beginning of a run in a text, in bytes.
local RUN_BYTES = 100

local function add_to_count(field, number) call('HINCRBY', prefix .. 'counts', field, number) end
local function get_count(field) return tonumber(call('HGET', prefix .. 'counts', field) or 0) end

-- Lua has a -0, and Redis takes it for no integer.
local function negative(number) return 0 - number end

local function add_to_share(owner, state, sign, size)
  local share = prefix .. 'share:' .. owner
  if call('EXISTS', share) == 0 then add_to_count('owners', 1) end
  if state == 'queued' then call('HINCRBY', share, 'queued', sign) end
  call('HINCRBY', share, 'bytes', size)
  add_to_count('unfinished_bytes', size)
  if call('HINCRBY', share, 'unfinished', sign) == 0 then
    call('DEL', share)
    add_to_count('owners', -1)
  end
end

-- Count a task in, or with a sign of -1 out.
local function add_to_counts(owner, state, sign, size)
  if sign < 0 then size = negative(size) end
  add_to_count('bytes', size)
  if FINAL[state] then
    add_to_count('finished_bytes', size)
    local bytes = call('ZINCRBY', prefix .. 'finished_bytes', size, owner)
    if tonumber(bytes) == 0 then call('ZREM', prefix .. 'finished_bytes', owner) end
  else
    add_to_count(state, sign)
    add_to_share(owner, state, sign, size)
  end
end

-- Note that a task has entered a state, or with a sign of -1 left it. The same as ByState in
-- memory/by_state.py.
local function index_state(id, owner, model, state, sign)
  local key = prefix .. 'tasks:' .. state .. ':' .. owner
  if sign > 0 then call('ZADD', key, id, id) else call('ZREM', key, id) end
  if FINAL[state] then return end
  local field = state .. ':' .. model
  if call('HINCRBY', prefix .. 'model_counts', field, sign) == 0 then
    call('HDEL', prefix .. 'model_counts', field)
  end
end

local function text_bytes(id)
  return call('STRLEN', prefix .. 'text:' .. id)
    + RUN_BYTES * call('ZCARD', prefix .. 'runs:' .. id)
end

local function delete_text(id)
  add_to_count('bytes', negative(text_bytes(id)))
  call('UNLINK', prefix .. 'text:' .. id, prefix .. 'runs:' .. id)
end

-- Put a final task at the end of the finished ones. The turn keeps tasks in order that become
-- final at the same moment.
local function add_finished(id, owner, finished_at)
  local member = string.format('%016d:%s', next_turn(), id)
  call('ZADD', prefix .. 'finished', finished_at, member)
  call('ZADD', prefix .. 'finished:' .. owner, finished_at, member)
  call('HSET', task_key(id), 'f', member)
end

-- Delete a final task.
local function forget(id)
  local task = call('HMGET', task_key(id), 's', 'o', 'z', 'k', 'f', 'm')
  local state, owner, size, key, member = task[1], task[2], tonumber(task[3]), task[4], task[5]
  add_to_counts(owner, state, -1, size)
  index_state(id, owner, task[6], state, -1)
  call('ZREM', prefix .. 'finished', member)
  call('ZREM', prefix .. 'finished:' .. owner, member)
  -- Another task may have taken the key away.
  if key ~= '' and call('HGET', prefix .. 'keys', key) == id then
    call('HDEL', prefix .. 'keys', key)
  end
  call('UNLINK', task_key(id))
end

local function is_full(wanted_bytes) return get_count('bytes') + wanted_bytes > max_store_bytes end

-- The member of `finished` that is forgotten next for room: the oldest of the owner whose finished
-- tasks take the most bytes; nil for none.
local function first_surplus(keep_last)
  local owner = last_of('finished_bytes')
  local member = owner and first_of('finished:' .. owner)
  if keep_last and member == last_of('finished') then return nil end
  return member
end

-- Forget finished tasks: those that have been kept for long enough, and as many as it takes to
-- make `wanted_bytes` fit. Returns whether it stopped at `max_tasks`.
local function make_room(wanted_bytes, keep_last, max_tasks)
  for _ = 1, max_tasks do
    local member, finished_at = first_of('finished')
    if not member then return false end
    if finished_at > now - result_ttl_seconds then
      member = is_full(wanted_bytes) and first_surplus(keep_last)
      if not member then return false end
    end
    forget(string.match(member, ':(%d+)$'))
  end
  return true
end
