-- Choose the next task for a claim, and reserve it so that nobody else gets it. The worker takes
-- it with commit.lua; if that does not come in time, the task is due and becomes ready again.
--
-- Reads and writes: the queue and the workers through queue.lua and workers.lua; due. Reads: task,
-- text, runs.
--
-- ARGV[6]   How many seconds the task is reserved.
-- ARGV[7]   Worker, as codec.worker_key gives it.
-- ARGV[8]   Its holder.
-- ARGV[9]   The worker's group.
-- ARGV[10]  The hold that stands for this claim.
-- ARGV[11]  For the first look of a claim: how many seconds it will wait, or 0. Then empty.
-- ARGV[12]  The models of the group, to the last argument; needed only after 'models'.
--
-- Returns {'ok', stored_task} or {'none'}; {'models'} when the group is unknown, and the script
-- must be called with its models; or {'left'} when the claim has ended because its worker left.
local reserve_seconds, worker, holder, group = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local hold, wait_seconds, models = ARGV[10], tonumber(ARGV[11]), arguments_from(12)

local function forget_surplus_worker(other_holder)
  local surplus = first_of('workers:' .. other_holder)
  forget_worker(surplus, other_holder)
  end_claims(surplus)
  forget_contact(surplus)
  update_connected(surplus)
end

-- The same rule as Holders.surplus in memory/holders.py.
local function forget_surplus()
  local mine = prefix .. 'workers:' .. holder
  while call('ZCARD', mine) > MAX_WORKERS_PER_HOLDER do forget_surplus_worker(holder) end
  while call('ZCARD', prefix .. 'former:' .. holder) > MAX_FORMER_PER_HOLDER do
    local oldest = first_of('former:' .. holder)
    remove_former(holder, oldest)
  end
  while tonumber(call('HGET', prefix .. 'names', holder)) > MAX_NAMES_PER_HOLDER do
    local oldest = first_of('former:' .. holder)
    if oldest then
      remove_former(holder, oldest)
    elseif call('ZCARD', mine) > 1 then
      forget_surplus_worker(holder)
    else
      break
    end
  end
  while call('HLEN', prefix .. 'groups') > MAX_WORKERS do
    local greatest = last_of('holders')
    forget_surplus_worker(greatest)
  end
end

local function set_group(old_group)
  if call('EXISTS', prefix .. 'group:' .. group) == 0 then create_group(group, models) end
  if old_group then forget_worker(worker, holder, group) end
  call('HSET', prefix .. 'groups', worker, group)
  call('ZINCRBY', prefix .. 'holders', 1, holder)
  add_names(holder, count_names(group))
end

-- The same rule as Workers.record_claim in memory/workers.py.
local function record_claim()
  local old_group = call('HGET', prefix .. 'groups', worker)
  if old_group ~= group then set_group(old_group) end
  record_contact(worker, holder)
  if old_group ~= group then
    remove_former(holder, group)
    forget_surplus()
  end
  if wait_seconds > 0 then add_hold(worker, hold, now + wait_seconds + reserve_seconds) end
  update_connected(worker)
end

-- The owner with tasks of the model whose turn is next, and its turn. The turns in owners:<model>
-- are corrected only here, so that the end of a turn costs the same however many models an owner
-- has queued.
local function first_owner(model)
  while true do
    local owner, turn = first_of('owners:' .. model)
    local right_turn = call('ZSCORE', prefix .. 'round', owner)
    if tonumber(right_turn) == turn then return owner, turn end
    call('ZADD', prefix .. 'owners:' .. model, right_turn, owner)
  end
end

-- The id, owner and model of the task that is next for a worker with any model.
local function first_of_all()
  local owner = first_of('round')
  if not owner then return nil end
  local id = first_of('ready:' .. owner)
  return id, owner, call('HGET', task_key(id), 'm')
end

-- The same for a worker with the models of its group.
local function first_of_group()
  local common = call('ZINTER', 2, prefix .. 'group:' .. group, prefix .. 'models')
  local next_owner, next_turn_at
  for _, model in ipairs(common) do
    local owner, turn = first_owner(model)
    if not next_turn_at or turn < next_turn_at then next_owner, next_turn_at = owner, turn end
  end
  local first_id, first_model
  for _, model in ipairs(next_owner and common or {}) do
    local id = call('ZRANGE', lane_key(next_owner, model), 0, 0)[1]
    if id and (not first_id or tonumber(id) < tonumber(first_id)) then
      first_id, first_model = id, model
    end
  end
  return first_id, next_owner, first_model
end

local function reserve(id, owner, model)
  call('ZADD', prefix .. 'round', 'XX', next_turn(), owner)
  remove_ready(id, owner, model)
  call('ZADD', prefix .. 'due', as_text(now + reserve_seconds), id)
  call('ZADD', prefix .. 'holds:' .. worker, 'GT', as_text(now + reserve_seconds), hold)
end

if is_anything_due() then return {'due'} end
if wait_seconds then
  local is_known = group == 'any' or group == 'none'
    or call('EXISTS', prefix .. 'group:' .. group) == 1
  if not is_known and #models == 0 then return {'models'} end
  record_claim()
elseif not call('ZSCORE', prefix .. 'holds:' .. worker, hold) then
  return {'left'}
end
local first = group == 'any' and first_of_all or first_of_group
local id, owner, model = first()
if not id then return {'none'} end
reserve(id, owner, model)
return {'ok', stored_task(id, true)}
