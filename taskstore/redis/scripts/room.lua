-- Counts and room, shared by all scripts. The same rules as in memory/shares.py, memory/finished.py
-- and memory/table.py; compared by tests/store/test_redis_histories.py.

-- What is counted for the beginning of a run in a text, in bytes.
local RUN_BYTES = 100

local function add_to_count(field, number) call('HINCRBY', prefix .. 'counts', field, number) end

-- The counts with these names.
local function get_counts(...)
  local counts = call('HMGET', prefix .. 'counts', ...)
  for n, count in ipairs(counts) do counts[n] = tonumber(count or 0) end
  return unpack(counts)
end

-- Lua has a -0, and Redis takes it for no integer.
local function negative(number) return 0 - number end

local function add_to_fields(key, numbers)
  for field, number in pairs(numbers) do
    if number ~= 0 then call('HINCRBY', prefix .. key, field, number) end
  end
end

local function add_to_finished_bytes(owner, size)
  if size == 0 then return end
  local bytes = call('ZINCRBY', prefix .. 'finished_bytes', size, owner)
  if tonumber(bytes) == 0 then call('ZREM', prefix .. 'finished_bytes', owner) end
end

local function add_to_share(owner, unfinished, queued, size)
  local share = 'share:' .. owner
  local count = unfinished ~= 0 and call('HINCRBY', prefix .. share, 'unfinished', unfinished)
  if count == 0 then call('DEL', prefix .. share) end
  if count == 0 or count == unfinished then add_to_count('owners', unfinished) end
  if count ~= 0 then add_to_fields(share, {queued = queued, bytes = size}) end
end

-- Count a task out in its old state and size, and in in the new ones; a state may be nil.
local function change_counts(owner, old_state, old_size, state, size)
  local sums = {bytes = 0, finished_bytes = 0, unfinished_bytes = 0, queued = 0, running = 0}
  local function add(its_state, sign, bytes)
    local kind = FINAL[its_state] and 'finished_bytes' or 'unfinished_bytes'
    sums.bytes, sums[kind] = sums.bytes + bytes, sums[kind] + bytes
    if not FINAL[its_state] then sums[its_state] = sums[its_state] + sign end
  end
  if old_state then add(old_state, -1, negative(old_size)) end
  if state then add(state, 1, size) end
  add_to_fields('counts', sums)
  add_to_finished_bytes(owner, sums.finished_bytes)
  add_to_share(owner, sums.queued + sums.running, sums.queued, sums.unfinished_bytes)
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
  local bytes = text_bytes(id)
  if bytes == 0 then return end
  add_to_count('bytes', negative(bytes))
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
  -- Redis allows this also at `maxmemory`, and after it whatever else the script writes.
  call('ZREM', prefix .. 'finished', member)
  change_counts(owner, state, size)
  index_state(id, owner, task[6], state, -1)
  call('ZREM', prefix .. 'finished:' .. owner, member)
  -- Another task may have taken the key away.
  if key ~= '' and call('HGET', prefix .. 'keys', key) == id then
    call('HDEL', prefix .. 'keys', key)
  end
  call('UNLINK', task_key(id))
end

local function forget_finished(member) forget(string.match(member, ':(%d+)$')) end

-- The member of `finished` that has been kept for long enough; nil for none.
local function first_expired()
  local member, finished_at = first_of('finished')
  return member and finished_at <= now - result_ttl_seconds and member or nil
end

-- The member of `finished` that is forgotten next for room: the oldest of the owner whose finished
-- tasks take the most bytes; nil for none.
local function first_surplus(keep_last)
  local owner = last_of('finished_bytes')
  local member = owner and first_of('finished:' .. owner)
  if keep_last and member == last_of('finished') then return nil end
  return member
end

local function is_full(wanted_bytes) return get_counts('bytes') + wanted_bytes > max_store_bytes end

-- Forget as many finished tasks as it takes to make `wanted_bytes` fit. Returns whether it stopped
-- at `max_tasks`.
local function make_room(wanted_bytes, keep_last, max_tasks)
  for _ = 1, max_tasks do
    local member = is_full(wanted_bytes) and (first_expired() or first_surplus(keep_last))
    if not member then return false end
    forget_finished(member)
  end
  return true
end

-- Forget finished tasks that have been kept for long enough. Returns the same.
local function forget_expired(max_tasks)
  for _ = 1, max_tasks do
    local member = first_expired()
    if not member then return false end
    forget_finished(member)
  end
  return true
end
