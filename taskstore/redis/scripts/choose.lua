-- Which task a claim gets: the part of claim.lua that chooses it.

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

-- What must be done once the chosen task is leased.
local end_choice = function() end

-- The id, owner and model of the owner's task that is next; `find` returns the id, order and model
-- of its first task from an order on that the worker can run. The same rule as ReadyQueue._next
-- and count_claim in memory/ready_queue.py.
local function next_in_order(owner, find)
  local id, order, model = find('-inf')
  if order < BACKGROUND then
    local _, last_order = last_of('ready:' .. owner)
    if last_order < BACKGROUND then return id, order, model end
    local background_id, background_order, background_model = find(as_text(BACKGROUND))
    if not background_id then return id, order, model end
    local in_a_row = tonumber(call('HGET', prefix .. 'streaks', owner) or 0) + 1
    if in_a_row <= MAX_FOREGROUND_IN_A_ROW then
      end_choice = function() call('HSET', prefix .. 'streaks', owner, in_a_row) end
      return id, order, model
    end
    id, order, model = background_id, background_order, background_model
  end
  end_choice = function() call('HDEL', prefix .. 'streaks', owner) end
  return id, order, model
end

local function is_able(model)
  if group == 'any' then return is_plain(model) end
  return call('ZSCORE', prefix .. 'group:' .. group, model)
end

-- The id, order and model of the owner's first task with a model that the worker prefers, of the
-- kind whose orders begin at `start`.
local function preferred_of(owner, start)
  local first_id, first_order, first_model
  for n = first_preferred, last_preferred do
    local id, order = first_from(lane_key(owner, ARGV[n]), as_text(start))
    if id and order < start + BACKGROUND and (not first_id or order < first_order)
      and is_able(ARGV[n]) then first_id, first_order, first_model = id, order, ARGV[n] end
  end
  return first_id, first_order, first_model
end

-- The same as next_in_order for a worker that may prefer models, with the owner second. The same
-- rule as ReadyQueue.choose in memory/ready_queue.py.
local function next_of(owner, find)
  local id, order, model = next_in_order(owner, find)
  if last_preferred < first_preferred then return id, owner, model end
  local start = order < BACKGROUND and 0 or BACKGROUND
  local preferred_id, preferred_order, preferred_model = preferred_of(owner, start)
  local key = passed_over_key(owner, start > 0)
  if not preferred_id or preferred_id == id
    or is_passed_over_too_long(key, order, switch_seconds) then return id, owner, model end
  local _, first_order = first_from(prefix .. 'ready:' .. owner, as_text(start))
  record_passing_over(key, preferred_order, first_order, switch_seconds)
  return preferred_id, owner, preferred_model
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

-- The models with tasks that workers have prefetched, of those that this one has.
local function prefetched_models()
  if group ~= 'any' then
    return call('ZINTER', 2, prefix .. 'group:' .. group, prefix .. 'prefetched_models')
  end
  local plain = {}
  for _, model in ipairs(call('SMEMBERS', prefix .. 'prefetched_models')) do
    if is_plain(model) then plain[#plain + 1] = model end
  end
  return plain
end

-- The id of the task that the claim gets, and its owner and model if it is ready. The same rule as
-- Claimable.choose in memory/claimable.py.
local function choose()
  if max_prefetched ~= 0 then
    if count_prefetched(worker) >= max_prefetched then return nil end
  elseif call('EXISTS', prefix .. 'prefetched') == 1 then
    local id = first_of_others(prefetched_models(), worker)
    if id then return id end
  end
  if group == 'any' then return first_of_all() end
  return first_of_group()
end
