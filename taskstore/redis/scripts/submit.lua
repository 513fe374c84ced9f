-- Add a task to the queue, unless its idempotency key is known or there is no room. In the script
-- submit_and_serve, then serve a claim that waits, as if claim.lua came next.
--
-- Reads and writes: keys, share, counts, last, task, due; the queue, the finished tasks and the
-- clients through queue.lua, room.lua and clients.lua; submitted; all that claim.lua does. Running
-- it again returns the tasks of the first run.
--
-- ARGV[6]   Version for the task.
-- ARGV[7]   Owner, or empty.
-- ARGV[8]   Model, as names.queue_key gives it.
-- ARGV[9]   Seconds within which it must start; 0 for no limit.
-- ARGV[10]  Size of the task in bytes.
-- ARGV[11]  The fields of the task as JSON, without the brace that opens it and the fields that
--           depend on its id and on the time.
-- ARGV[12]  Request.
-- ARGV[13]  Its field in keys, or empty.
-- ARGV[14]  How many queued tasks an owner with a name may have.
-- ARGV[15]  How many queued tasks there may be.
-- ARGV[16]  How many bytes a character of its text will take.
-- ARGV[17]  The Manage Server whose client waits for it; else empty.
-- ARGV[18]  '1' when an earlier task with the key will do; else that task loses the key.
-- ARGV[19]  '1' to refuse it unless a connected worker can run it.
-- ARGV[20]  '1' for a background task.
-- From ARGV[21] on: the claim, as in claim_arguments.lua, if there is one.
--
-- Returns {'ok', fields as JSON, request} of the new task, followed by what `serve` in lease.lua
-- returns for the claim, or claim.lua when the first run has served it; {'known', fields as JSON,
-- request} of the earlier task with this key; {'no_worker', all connected workers} when none of
-- them runs such tasks, and {'no_model', how many that have it are too old} when none has the model;
-- or {'full', reason}, where the reason says what there is too much of.

-- Longer than the second run may come after the first.
local SUBMITTED_SECONDS = 60
local RELAYED_WIDTH = '1'
local version, owner, model = ARGV[6], ARGV[7], ARGV[8]
local start_seconds, size = tonumber(ARGV[9]), tonumber(ARGV[10])
local more_fields, request, key = ARGV[11], ARGV[12], ARGV[13]
local max_queued_per_user, max_queued = tonumber(ARGV[14]), tonumber(ARGV[15])
local width, server, may_join, needs_worker = ARGV[16], ARGV[17], ARGV[18] == '1', ARGV[19] == '1'
local is_background = ARGV[20] == '1'

local submitted = prefix .. 'submitted:' .. version
local first_id = again and call('GET', submitted)
-- After 'due' there is a third run, which does not know of the first.
if not first_id and is_anything_due() then return {'due'} end

local known = first_id or (key ~= '' and may_join and call('HGET', prefix .. 'keys', key))
if known then
  local task = call('HMGET', task_key(known), 't', 'r', 's', 'w')
  -- The same rule as Scheduler._earlier in memory/scheduler.py.
  local is_dropped = not first_id and task[3] == 'cancelled' and task[4] == RELAYED_WIDTH
  if task[1] and not is_dropped then
    if not first_id then return {'known', task[1], task[2] or ''} end
    return {'ok', task[1], task[2] or '', leased_before()}
  end
end
if needs_worker then
  if count_connected_with(EXTENDED) == 0 then
    return {'no_worker', count_connected('connected')}
  end
  if count_connected_with(model) == 0 then return {'no_model', count_too_old(model)} end
end

-- What there is too much of; nil if the task fits. The same rules as Shares.check_room in
-- memory/shares.py; compared by tests/store/test_redis_histories.py.
local function excess()
  local share = call('HMGET', prefix .. 'share:' .. owner, 'queued', 'bytes', 'unfinished')
  local own_queued, own_bytes = tonumber(share[1] or 0), tonumber(share[2] or 0)
  local queued, bytes, finished_bytes, unfinished_bytes, owners = get_counts(
    'queued', 'bytes', 'finished_bytes', 'unfinished_bytes', 'owners')
  local places_left = max_queued - (queued - own_queued)
  local bytes_left = max_store_bytes - (unfinished_bytes - own_bytes)
  if owner ~= '' or owners > (share[3] and 1 or 0) then
    if owner ~= '' and own_queued >= max_queued_per_user then return 'owner_tasks' end
    if own_queued < places_left and places_left <= 2 * own_queued then return 'owner_tasks' end
    if own_bytes + size > math.floor(bytes_left / 2) then return 'owner_bytes' end
  end
  if queued >= max_queued then return 'tasks' end
  if bytes - finished_bytes + size > max_store_bytes then return 'bytes' end
end
local reason = excess()
if reason then return {'full', reason} end
make_room(size, false, 1000000)

local id = call('INCR', prefix .. 'last')
local start_by = start_seconds > 0 and now + start_seconds or 0
local fields = '{"task_id":' .. id .. ',"submitted_at":' .. as_text(now)
  .. ',"start_by":' .. as_text(start_by) .. ',' .. more_fields
call('HSET', task_key(id), 'v', version, 't', fields, 'r', request, 's', 'queued', 'o', owner,
  'm', model, 'z', size, 'c', 0, 'k', key, 'f', '', 'w', width, 'p', '')
set_server(id, '', server)
if is_background then call('HSET', task_key(id), 'b', 1) end
if key ~= '' then call('HSET', prefix .. 'keys', key, id) end
call('SET', submitted, id, 'EX', SUBMITTED_SECONDS)
change_counts(owner, nil, nil, 'queued', size)
index_state(id, owner, model, 'queued', 1)
if start_seconds > 0 then set_due(id, as_text(start_by)) end
index_ready(id, owner, model)
local served = serve()
-- Nobody else has to look for a task that the claim got.
if call('EXISTS', prefix .. 'model:' .. model) == 1 then publish('r' .. model) end
return {'ok', fields, request, served}
