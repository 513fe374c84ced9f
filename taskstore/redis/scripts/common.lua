-- What all scripts share: arguments, keys and functions. The loader puts this file before each
-- script, and before this file the constants MAX_WORKERS, MAX_MODELS, KEPT_PER_MODEL and
-- MAX_TEXT_BYTES.
--
-- A script is one atomic step. It keeps indexes and counts up to date, but does not know how a
-- task may move: Python decides that (taskstore/tasks.py) and commit.lua stores the outcome.
-- Each script returns a list that begins with a word: 'ok', or what kept it from doing its work.
-- 'due' means that other work has to come first: call take_due, then this script again.
-- Numbers that may have a fraction are passed as text, because Redis cuts off fractions.
--
-- KEYS[1]  The prefix of all keys, such as '{llm}:'. Its hash tag keeps them on one cluster node.
--
-- ARGV[1]  '1' when this is the second run, because the connection broke during the first.
-- ARGV[2]  The channel for notifications.
-- ARGV[3]  The time in seconds; empty for the clock of Redis.
-- ARGV[4]  How many seconds a finished task is kept.
-- ARGV[5]  How many bytes all tasks together may take.
-- From ARGV[6] on: the arguments of the script itself.
--
-- All keys, with their types and contents, are in ../keys.md.
local prefix = KEYS[1]
local again, channel = ARGV[1] == '1', ARGV[2]
local clock, result_ttl_seconds, max_store_bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local call = redis.call
local FINAL = {completed = true, failed = true, cancelled = true}
-- What is counted for the beginning of a run in a text, in bytes.
local RUN_BYTES = 100

local function as_text(number) return string.format('%.17g', number) end

local function current_time()
  if clock ~= '' then return tonumber(clock) end
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local now = current_time()

local function arguments_from(first)
  local arguments = {}
  for n = first, #ARGV do arguments[#arguments + 1] = ARGV[n] end
  return arguments
end

local function task_key(id) return prefix .. 'task:' .. id end
local function lane_key(owner, model)
  return prefix .. 'lane:' .. #owner .. ':' .. owner .. ':' .. model
end
local function next_turn() return call('INCR', prefix .. 'turn') end
local function add_to_count(field, number) call('HINCRBY', prefix .. 'counts', field, number) end
local function get_count(field) return tonumber(call('HGET', prefix .. 'counts', field) or 0) end
local function publish(message) call('PUBLISH', channel, message) end

-- A task as `Stored` in codec.py reads it; nil if there is none.
local function stored_task(id, with_request)
  local fields = call('HMGET', task_key(id), 'v', 't')
  if not fields[1] then return nil end
  local request = with_request and call('HGET', task_key(id), 'r') or ''
  local last_run = call('ZRANGE', prefix .. 'runs:' .. id, -1, -1)[1] or ''
  return {as_text(now), fields[1], fields[2], request, call('HSTRLEN', task_key(id), 'r'),
    call('STRLEN', prefix .. 'text:' .. id), last_run}
end

-- Time

local function oldest_finished()
  local first = call('ZRANGE', prefix .. 'finished', 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

local function is_anything_due()
  if call('ZCOUNT', prefix .. 'due', '-inf', as_text(now)) > 0 then return true end
  local member, finished_at = oldest_finished()
  return member and finished_at <= now - result_ttl_seconds
end

-- An empty `due_at` means never.
local function set_due(id, due_at)
  if due_at == '' then call('ZREM', prefix .. 'due', id) return end
  local first = call('ZRANGE', prefix .. 'due', 0, 0, 'WITHSCORES')[2]
  call('ZADD', prefix .. 'due', due_at, id)
  if not first or tonumber(due_at) < tonumber(first) then publish('d') end
end

-- Counts and room. The same rules as in memory/table.py; compared by
-- tests/store/test_redis_histories.py.

local function add_to_share(owner, state, sign, size)
  if owner == '' then return end
  local share = prefix .. 'share:' .. owner
  if state == 'queued' then call('HINCRBY', share, 'queued', sign) end
  call('HINCRBY', share, 'bytes', sign * size)
  if call('HINCRBY', share, 'unfinished', sign) == 0 then call('DEL', share) end
end

-- Count a task in, or with a sign of -1 out.
local function add_to_counts(owner, state, sign, size)
  add_to_count('bytes', sign * size)
  if FINAL[state] then
    add_to_count('finished_bytes', sign * size)
  else
    add_to_count(state, sign)
    add_to_share(owner, state, sign, size)
  end
end

local function text_bytes(id)
  return call('STRLEN', prefix .. 'text:' .. id)
    + RUN_BYTES * call('ZCARD', prefix .. 'runs:' .. id)
end

local function delete_text(id)
  -- Not -text_bytes(id): Lua has a -0, and Redis takes it for no integer.
  add_to_count('bytes', 0 - text_bytes(id))
  call('UNLINK', prefix .. 'text:' .. id, prefix .. 'runs:' .. id)
end

-- Delete a final task.
local function forget(id)
  local task = call('HMGET', task_key(id), 's', 'o', 'z', 'k', 'f')
  local state, owner, size, key, member = task[1], task[2], tonumber(task[3]), task[4], task[5]
  add_to_counts(owner, state, -1, size)
  call('ZREM', prefix .. 'finished', member)
  if key ~= '' then call('HDEL', prefix .. 'keys', key) end
  call('UNLINK', task_key(id))
end

-- Forget finished tasks, oldest first: those that have been kept for long enough, and while there
-- is no room for `wanted_bytes` all but the last `keep`. Returns whether it stopped at `max_tasks`.
local function make_room(wanted_bytes, keep, max_tasks)
  for _ = 1, max_tasks do
    local member, finished_at = oldest_finished()
    if not member then return false end
    local is_full = get_count('bytes') + wanted_bytes > max_store_bytes
      and call('ZCARD', prefix .. 'finished') > keep
    if finished_at > now - result_ttl_seconds and not is_full then return false end
    forget(string.match(member, ':(%d+)$'))
  end
  return true
end

-- Workers. The same rules as in memory/workers.py; compared by
-- tests/store/test_redis_histories.py.

local function groups_with(model)
  local groups = call('SMEMBERS', prefix .. 'has:' .. model)
  groups[#groups + 1] = 'any'
  return groups
end

local function count_workers_with(model)
  local count = 0
  for _, group in ipairs(groups_with(model)) do
    count = count + call('ZCOUNT', prefix .. 'until:' .. group, '(' .. as_text(now), '+inf')
  end
  return count
end

local function leave_group(worker, group)
  call('ZREM', prefix .. 'until:' .. group, worker)
  call('ZREM', prefix .. 'seen:' .. group, worker)
  if call('EXISTS', prefix .. 'until:' .. group) == 0 then
    for _, model in ipairs(call('SMEMBERS', prefix .. 'group:' .. group)) do
      call('SREM', prefix .. 'has:' .. model, group)
    end
    call('DEL', prefix .. 'group:' .. group)
  end
end

local function set_connected(worker, group, connected_until)
  call('ZADD', prefix .. 'until:' .. group, as_text(connected_until), worker)
  call('ZADD', prefix .. 'seen:' .. group, as_text(now), worker)
  call('ZADD', prefix .. 'connected', as_text(connected_until), worker)
  call('ZADD', prefix .. 'workers', next_turn(), worker)
end

-- Record that a worker was in contact about a task. Contact never shortens its connection.
local function record_contact(worker, connected_until)
  local group = call('HGET', prefix .. 'groups', worker)
  if group then
    local before = tonumber(call('ZSCORE', prefix .. 'until:' .. group, worker))
    set_connected(worker, group, math.max(connected_until, before))
  end
end

-- The queue. The same order as in memory/fair_queue.py and memory/ready_queue.py; compared by
-- tests/store/test_redis_histories.py.

local function remove_ready(id, owner, model)
  if call('ZREM', prefix .. 'ready:' .. owner, id) == 0 then return end
  local lane = lane_key(owner, model)
  call('ZREM', lane, id)
  local first = call('ZRANGE', lane, 0, 0)[1]
  if first then
    call('ZADD', prefix .. 'models:' .. owner, first, model)
  else
    call('ZREM', prefix .. 'models:' .. owner, model)
  end
  if call('EXISTS', prefix .. 'ready:' .. owner) == 0 then
    call('ZREM', prefix .. 'round', owner)
  end
end

local function add_ready(id, owner, model)
  local lane = lane_key(owner, model)
  call('ZADD', prefix .. 'ready:' .. owner, id, id)
  call('ZADD', lane, id, id)
  call('ZADD', prefix .. 'models:' .. owner, call('ZRANGE', lane, 0, 0)[1], model)
  if not call('ZSCORE', prefix .. 'round', owner) then
    call('ZADD', prefix .. 'round', next_turn(), owner)
  end
  publish('r' .. (count_workers_with(model) == 0 and '1' or '0') .. model)
end
