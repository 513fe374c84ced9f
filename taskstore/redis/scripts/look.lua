-- Read all that a user is told about a task, with its text from an offset on.
--
-- Reads: turn, task, jumps, tasks, text, runs, ready, round, took, prefetched; the workers through
-- workers.lua.
--
-- ARGV[6]  Task id.
-- ARGV[7]  text_epoch of the reader's cursor; for another one the text begins at 0.
-- ARGV[8]  Offset of the cursor, in characters.
-- ARGV[9]  Owner.
-- ARGV[10] '1' to include the request.
--
-- Returns {'ok', now, the last turn, fields as JSON, request, queue position or 0, connected
-- workers with its model, all connected workers, when one with its model was last seen or '', how
-- many that have the model are too old, durations of the model, bytes of the whole text, offset of
-- the new text, new text, its runs, the members of `jumps` if the request is included} or {'gone'}.
local id, cursor_epoch, cursor_offset, user = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local with_request = ARGV[10] == '1'

if is_anything_due() then return {'due'} end
local task = call('HMGET', task_key(id), 't', 's', 'o', 'm', 'c', 'w')
local fields, state = task[1], task[2]
local owner, model, text_epoch = task[3], task[4], task[5]
local width = tonumber(task[6] or TEXT_WIDTH)
if owner ~= user then return {'gone'} end
local request = with_request and call('HGET', task_key(id), 'r') or ''
local turn = call('GET', prefix .. 'turn') or '0'
local jumps = with_request and call('LRANGE', prefix .. 'jumps', 0, -1) or {}

-- The same rule as Snapshots._position in memory/snapshots.py and FairQueue.position in
-- memory/fair_queue.py; compared by tests/store/test_redis_histories.py.
local function queue_position()
  local reserved = prefetched_position(id)
  if reserved then return reserved end
  local own = own_position(id, owner, fields)
  local before, turns = 0, own
  for _, other in ipairs(call('ZRANGE', prefix .. 'round', 0, -1)) do
    if other == owner then
      -- Owners further back get one turn less before this task.
      turns = own - 1
    else
      before = before + math.min(call('ZCARD', prefix .. 'ready:' .. other), turns)
    end
  end
  return call('ZCARD', prefix .. 'prefetched') + before + own
end

-- The run that the offset is in, and all after it.
local function runs_from(offset)
  local key = prefix .. 'runs:' .. id
  local runs = call('ZREVRANGEBYSCORE', key, offset, '-inf', 'LIMIT', 0, 1)
  for _, run in ipairs(call('ZRANGEBYSCORE', key, '(' .. offset, '+inf')) do
    runs[#runs + 1] = run
  end
  return runs
end

if FINAL[state] then
  return {'ok', as_text(now), turn, fields, request, 0, 0, 0, '', 0, {}, 0, '0', '', {},
    jumps}
end
local position = state == 'queued' and queue_position() or 0
local connected, with_model = count_connected('connected'), count_connected_with(model)
local too_old = with_model == 0 and count_too_old(model) or 0
local durations = call('LRANGE', prefix .. 'took:' .. model, 0, -1)
local length = call('STRLEN', prefix .. 'text:' .. id)
local offset = text_epoch == cursor_epoch and cursor_offset or '0'
local text, runs = '', {}
if length > tonumber(offset) * width then
  text = call('GETRANGE', prefix .. 'text:' .. id, tonumber(offset) * width, -1)
  runs = runs_from(offset)
end
return {'ok', as_text(now), turn, fields, request, position, with_model, connected,
  last_seen_at(model), too_old, durations, length, offset, text, runs, jumps}
