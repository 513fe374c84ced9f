-- Replace a task by what a move made of it, if nobody has changed it since it was read, and bring
-- all indexes and counts up to date.
--
-- Reads and writes: task, text, runs, due, took; counts, the queue, workers and the finished tasks
-- through common.lua. Running it again changes nothing: the task then has the new version.
--
-- ARGV[6]   Task id.
-- ARGV[7]   Version that the task must still have.
-- ARGV[8]   Version that it gets.
-- ARGV[9]   Its fields as JSON.
-- ARGV[10]  State.
-- ARGV[11]  text_epoch; a new one discards the text.
-- ARGV[12]  Size in bytes.
-- ARGV[13]  When time alone will change it; empty for never.
-- ARGV[14]  '1' if it can be claimed.
-- ARGV[15]  When it became final.
-- ARGV[16]  Worker that was in contact; empty for none.
-- ARGV[17]  Until when that worker counts as connected.
-- ARGV[18]  How many seconds it ran, if that is to be remembered; else empty.
-- ARGV[19]  Text to append, as UTF-32-LE.
-- ARGV[20]  The runs that begin in this text, as members of runs:<id>, to the last argument.
--
-- Returns {'ok'}; {'conflict'} when somebody has changed the task; {'too_long'} when there is no
-- room for the text. In these two cases the task is unchanged.
local id, old_version, new_version, fields = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local state, text_epoch, size = ARGV[10], ARGV[11], tonumber(ARGV[12])
local due_at, is_ready, finished_at = ARGV[13], ARGV[14] == '1', ARGV[15]
local worker, connected_until = ARGV[16], tonumber(ARGV[17])
local duration, new_text, new_runs = ARGV[18], ARGV[19], arguments_from(20)

local function append_text()
  local key = prefix .. 'text:' .. id
  local new_bytes = #new_text + RUN_BYTES * #new_runs
  make_room(new_bytes, 0, 1000)
  if get_count('bytes') + new_bytes > max_store_bytes
    or call('STRLEN', key) + #new_text > MAX_TEXT_BYTES then return false end
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
  call('ZADD', prefix .. 'took', next_turn(), model)
  if call('ZCARD', prefix .. 'took') > MAX_MODELS then
    call('DEL', prefix .. 'took:' .. call('ZPOPMIN', prefix .. 'took')[1])
  end
end

local task = call('HMGET', task_key(id), 'v', 's', 'o', 'm', 'z', 'c')
local version, old_state, owner, model = task[1], task[2], task[3], task[4]
local old_size, old_epoch = tonumber(task[5]), task[6]
if version == new_version then return {'ok'} end
if version ~= old_version then return {'conflict'} end
if new_text ~= '' and not append_text() then return {'too_long'} end

call('HSET', task_key(id), 'v', new_version, 't', fields)
set_due(id, due_at)
if worker ~= '' then record_contact(worker, connected_until) end
if old_state == 'queued' then remove_ready(id, owner, model) end

local has_moved = state ~= old_state or text_epoch ~= old_epoch
if has_moved or size ~= old_size then
  add_to_counts(owner, old_state, -1, old_size)
  add_to_counts(owner, state, 1, size)
  call('HSET', task_key(id), 's', state, 'z', size, 'c', text_epoch)
  if FINAL[state] or text_epoch ~= old_epoch then delete_text(id) end
end
if has_moved and FINAL[state] then
  call('HDEL', task_key(id), 'r')
  -- Tasks that become final at the same moment are kept in order by the turn.
  local member = string.format('%016d:%s', next_turn(), id)
  call('ZADD', prefix .. 'finished', finished_at, member)
  call('HSET', task_key(id), 'f', member)
end
if duration ~= '' then record_duration(model) end
if is_ready then add_ready(id, owner, model) end

if has_moved and FINAL[state] then
  publish('f' .. id)
elseif has_moved or new_text ~= '' then
  publish('t' .. id)
end
make_room(0, 1, 1000)
return {'ok'}
