-- Replace a task by what a move made of it, if nobody has changed it since it was read, and bring
-- all indexes and counts up to date.
--
-- Reads and writes: task, text, runs, due, running, restarting, took, usage; counts and finished
-- tasks, the queue, prefetched tasks, the workers and the clients through room.lua, queue.lua,
-- prefetched.lua, workers.lua and clients.lua.
-- Running it again changes nothing: the task then has the new version.
--
-- ARGV[6]   Task id.
-- ARGV[7]   Version that the task must still have.
-- ARGV[8]   Version that it gets.
-- ARGV[9]   Its fields as JSON.
-- ARGV[10]  State.
-- ARGV[11]  text_epoch; a new one discards the text that there is.
-- ARGV[12]  Size in bytes.
-- ARGV[13]  When time alone will change it; empty for never.
-- ARGV[14]  'ready' if it can be claimed, 'reserved' while it is reserved for the worker that has
--           prefetched it; else empty.
-- ARGV[15]  When it became final.
-- ARGV[16]  The Manage Server whose client waits for it; else empty.
-- ARGV[17]  The worker of its last claim or prefetch; empty for none.
-- ARGV[18]  The holder of this worker.
-- ARGV[19]  '1' when this worker was in contact.
-- ARGV[20]  When its lease or reservation ends, while it has one; else empty.
-- ARGV[21]  The length of its lease, when this has ended in silence; else empty.
-- ARGV[22]  When that lease ended.
-- ARGV[23]  '1' when a worker has lost its lease, so that it cannot be renewed.
-- ARGV[24]  How many seconds it ran, if that is to be remembered; else empty.
-- ARGV[25]  Its fields in lists of tasks, as JSON; empty if those in ARGV[9] will do.
-- ARGV[26]  The day on which it has completed, if it has just done so; else empty.
-- ARGV[27]  Its model for the usage.
-- ARGV[28]  How many tokens its prompt had.
-- ARGV[29]  How many tokens its answer had.
-- ARGV[30]  How many seconds it used a GPU.
-- ARGV[31]  How many seconds the usage of this day is kept.
-- ARGV[32]  Text to append, as text:<id> has it.
-- ARGV[33]  The runs that begin in this text, as members of runs:<id>, to the last argument.
--
-- Returns {'ok'}; {'conflict'} when somebody has changed the task; or {'too_long'} when there is no
-- room for the text. Only with 'ok' has anything changed.
local id, old_version, new_version, fields = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local state, text_epoch, size = ARGV[10], ARGV[11], tonumber(ARGV[12])
local due_at, is_ready, finished_at = ARGV[13], ARGV[14] == 'ready', ARGV[15]
local is_reserved = ARGV[14] == 'reserved'
local server = ARGV[16]
local worker, holder, is_contact, lease_ends_at = ARGV[17], ARGV[18], ARGV[19] == '1', ARGV[20]
local lost_seconds, lost_at = tonumber(ARGV[21]), tonumber(ARGV[22])
local is_lease_lost = ARGV[23] == '1'
local duration, listed_fields, day = ARGV[24], ARGV[25], ARGV[26]
local usage_model, prompt_tokens, answer_tokens = ARGV[27], ARGV[28], ARGV[29]
local gpu_seconds, usage_seconds = ARGV[30], ARGV[31]
local new_text, new_runs = ARGV[32], arguments_from(33)

local function append_text(width, is_first)
  local key = prefix .. 'text:' .. id
  local new_bytes = #new_text + RUN_BYTES * #new_runs
  make_room(new_bytes, false, 1000000)
  if is_full(new_bytes)
    or #new_text + (is_first and 0 or call('STRLEN', key)) > MAX_TEXT_CHARACTERS * width then
    return false
  end
  if is_first then delete_text(id) end
  local old_bytes = text_bytes(id)
  call('APPEND', key, new_text)
  for _, run in ipairs(new_runs) do
    call('ZADD', prefix .. 'runs:' .. id, string.match(run, '^%d+'), run)
  end
  add_to_count('bytes', text_bytes(id) - old_bytes)
  return true
end

local function record_duration(model)
  call('RPUSH', prefix .. 'took:' .. model, duration)
  call('LTRIM', prefix .. 'took:' .. model, -KEPT_PER_MODEL, -1)
  local is_new = call('ZADD', prefix .. 'took', next_turn(), model) == 1
  if is_new and call('ZCARD', prefix .. 'took') > MAX_MODELS then
    call('DEL', prefix .. 'took:' .. call('ZPOPMIN', prefix .. 'took')[1])
  end
end

-- The same rule as Usage.record in memory/usage.py.
local function record_usage(owner)
  local key, model = prefix .. 'usage:' .. day .. ':' .. owner, usage_model
  local is_known = call('HEXISTS', key, 't:' .. model) == 1
  if not is_known and call('HLEN', key) >= 4 * MAX_MODELS_A_DAY then model = OTHER_MODELS end
  call('HINCRBY', key, 't:' .. model, 1)
  call('HINCRBY', key, 'p:' .. model, prompt_tokens)
  call('HINCRBY', key, 'a:' .. model, answer_tokens)
  call('HINCRBYFLOAT', key, 'g:' .. model, gpu_seconds)
  call('EXPIRE', key, usage_seconds)
end

local function update_worker()
  if is_contact then record_contact(worker, holder) end
  if lease_ends_at ~= '' then
    add_hold(worker, 't' .. id, lease_ends_at)
  else
    remove_hold(worker, 't' .. id)
  end
  if lost_seconds then record_lost_lease(worker, lost_seconds, lost_at) end
  update_connected(worker)
end

-- Bring what is known of the worker up to date for which the task is or was reserved.
local function update_prefetched(owner, model, reserved_for)
  local is_same = is_reserved and reserved_for == worker
  if reserved_for and not is_same then
    remove_prefetched(id, owner, model, reserved_for)
    if reserved_for ~= worker then
      remove_hold(reserved_for, 't' .. id)
      update_connected(reserved_for)
    end
  end
  if is_reserved and not is_same then add_prefetched(id, owner, model, worker) end
end

-- What the readers at other Manage Servers would see if they looked; empty if there are none.
local function appended_news(width)
  if new_text == '' or state ~= 'running' or call('ZCARD', prefix .. 'servers') < 2 then
    return ''
  end
  local offset = (call('STRLEN', prefix .. 'text:' .. id) - #new_text) / width
  local runs = call('ZREVRANGEBYSCORE', prefix .. 'runs:' .. id, offset, '-inf', 'LIMIT', 0, 1)
  for _, run in ipairs(new_runs) do runs[#runs + 1] = run end
  return news(fields, offset, new_text, runs)
end

local task = call('HMGET', task_key(id), 'v', 's', 'o', 'm', 'z', 'c', 'w', 'p', 'h')
local version, old_state, owner, model = task[1], task[2], task[3], task[4]
local old_size, old_epoch = tonumber(task[5]), task[6]
if version == new_version then return {'ok'} end
if version ~= old_version then return {'conflict'} end
local width, is_first = tonumber(task[7] or TEXT_WIDTH), text_epoch ~= old_epoch
if new_text ~= '' and not append_text(width, is_first) then
  return {'too_long'}
end

call('HSET', task_key(id), 'v', new_version, 't', fields, 's', state, 'z', size,
  'c', text_epoch)
set_due(id, due_at)
call('SREM', prefix .. 'restarting', id)
call((state == 'running' or is_reserved) and 'SADD' or 'SREM', prefix .. 'running', id)
if worker ~= '' then update_worker() end
update_prefetched(owner, model, task[9])
set_server(id, task[8] or '', FINAL[state] and '' or server)
-- A task that stays ready keeps its owner's turn.
if old_state == 'queued' and not is_ready then remove_ready(id, owner, model) end

local has_moved = state ~= old_state or text_epoch ~= old_epoch
if has_moved or size ~= old_size then
  change_counts(owner, old_state, old_size, state, size)
  if FINAL[state] or new_text == '' and text_epoch ~= old_epoch then delete_text(id) end
end
if state ~= old_state then
  index_state(id, owner, model, old_state, -1)
  index_state(id, owner, model, state, 1)
end
if listed_fields ~= '' then call('HSET', task_key(id), 'l', listed_fields) end
if day ~= '' then record_usage(owner) end
if has_moved and FINAL[state] then
  call('HDEL', task_key(id), 'r')
  add_finished(id, owner, finished_at)
end
if duration ~= '' then record_duration(model) end
if is_ready then add_ready(id, owner, model) end

if has_moved and FINAL[state] then
  publish('f' .. id)
elseif has_moved or new_text ~= '' then
  publish('t' .. id .. appended_news(width))
end
if is_lease_lost and not FINAL[state] then publish('e' .. id) end
make_room(0, true, 1000)
return {'ok'}
