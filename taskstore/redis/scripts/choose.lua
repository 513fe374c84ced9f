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
  forget_report(surplus)
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

-- The first member of a sorted set from a score on, and its score; nil for none.
local function first_from(key, score)
  local first = call('ZRANGEBYSCORE', key, score, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return first[1], tonumber(first[2])
end

-- The id, owner and model of the owner's task that is next; `find` returns the id, order and model
-- of its first task from an order on that the worker can run. The same rule as ReadyQueue.first
-- and count_claim in memory/ready_queue.py.
local function next_of(owner, find)
  local id, order, model = find('-inf')
  if order < BACKGROUND then
    local _, last_order = last_of('ready:' .. owner)
    if last_order < BACKGROUND then return id, owner, model end
    local background_id, _, background_model = find(as_text(BACKGROUND))
    if not background_id then return id, owner, model end
    local in_a_row = call('HINCRBY', prefix .. 'streaks', owner, 1)
    if in_a_row <= MAX_FOREGROUND_IN_A_ROW then return id, owner, model end
    id, model = background_id, background_model
  end
  call('HDEL', prefix .. 'streaks', owner)
  return id, owner, model
end

-- The id, owner and model of the task that is next for a worker with these models, which are all
-- in the queue.
local function first_with(common)
  local next_owner, next_turn_at
  for _, model in ipairs(common) do
    local owner, turn = first_owner(model)
    if not next_turn_at or turn < next_turn_at then next_owner, next_turn_at = owner, turn end
  end
  if not next_owner then return nil end
  return next_of(next_owner, function(order)
    local first_id, first_order, first_model
    for _, model in ipairs(common) do
      local id, found_order = first_from(lane_key(next_owner, model), order)
      if id and (not first_id or found_order < first_order) then
        first_id, first_order, first_model = id, found_order, model
      end
    end
    return first_id, first_order, first_model
  end)
end

-- The same for a worker with any model, which can run plain tasks only.
local function first_of_all()
  local owner = first_of('round')
  if not owner then return nil end
  local function first_of_owner(order)
    local id, found_order = first_from(prefix .. 'ready:' .. owner, order)
    return id, found_order, id and call('HGET', task_key(id), 'm')
  end
  local _, _, model = first_of_owner('-inf')
  local _, _, background_model = first_of_owner(as_text(BACKGROUND))
  if is_plain(model) and (not background_model or is_plain(background_model)) then
    return next_of(owner, first_of_owner)
  end
  local plain = {}
  for _, other in ipairs(call('SMEMBERS', prefix .. 'models')) do
    if is_plain(other) then plain[#plain + 1] = other end
  end
  return first_with(plain)
end

-- The same for a worker with the models of its group.
local function first_of_group()
  return first_with(call('ZINTER', 2, prefix .. 'group:' .. group, prefix .. 'models'))
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
