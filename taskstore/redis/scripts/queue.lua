-- The tasks that can be claimed, shared by all scripts. The same order as in memory/fair_queue.py
-- and memory/ready_queue.py; compared by tests/store/test_redis_histories.py.

local function lane_key(owner, model)
  return prefix .. 'lane:' .. #owner .. ':' .. owner .. ':' .. model
end

-- The place of a task among those of its owner, as Task.order in task.py gives it.
local function order_of(id)
  local is_background = call('HGET', task_key(id), 'b') == '1'
  return as_text(tonumber(id) + (is_background and BACKGROUND or 0))
end

local function passed_over_key(owner, is_background)
  return prefix .. 'passed_over:' .. (is_background and 'b:' or 'f:') .. owner
end

-- The place of a queued task among those of its owner that nobody has prefetched. One that pauses comes after those that can
-- be claimed. The same rule as FairQueue.paused_position in memory/fair_queue.py.
local function own_position(id, owner, fields)
  local ready, order = prefix .. 'ready:' .. owner, order_of(id)
  local is_paused = not call('ZSCORE', ready, id)
    and (cjson.decode(fields).not_before or 0) > now
  if not is_paused then return call('ZCOUNT', ready, '-inf', '(' .. order) + 1 end
  local older = call('ZCOUNT', prefix .. 'tasks:queued:' .. owner, '-inf', '(' .. id)
    - call('ZCOUNT', prefix .. 'prefetched_owner:' .. owner, '-inf', '(' .. id)
    - call('ZCOUNT', ready, '-inf', '(' .. id)
    - call('ZCOUNT', ready, as_text(BACKGROUND), '(' .. as_text(BACKGROUND + tonumber(id)))
  return call('ZCARD', ready) + older + 1
end

-- Returns whether its owner has other tasks that can be claimed.
local function remove_ready(id, owner, model)
  if call('ZREM', prefix .. 'ready:' .. owner, id) == 0 then return end
  local lane, all = lane_key(owner, model), prefix .. 'model:' .. model
  call('ZREM', lane, id)
  call('ZREM', all, id)
  if call('EXISTS', lane) == 0 then call('ZREM', prefix .. 'owners:' .. model, owner) end
  if call('EXISTS', all) == 0 then call('SREM', prefix .. 'models', model) end
  if call('EXISTS', prefix .. 'ready:' .. owner) == 1 then return true end
  call('ZREM', prefix .. 'round', owner)
  call('HDEL', prefix .. 'streaks', owner)
  call('DEL', passed_over_key(owner, false), passed_over_key(owner, true))
end

-- Put a task in all indexes of tasks that can be claimed.
local function index_ready(id, owner, model)
  local turn = call('ZSCORE', prefix .. 'round', owner)
  if not turn then
    turn = next_turn()
    call('ZADD', prefix .. 'round', turn, owner)
  end
  local order = order_of(id)
  call('ZADD', prefix .. 'ready:' .. owner, order, id)
  call('ZADD', lane_key(owner, model), order, id)
  call('ZADD', prefix .. 'model:' .. model, id, id)
  call('SADD', prefix .. 'models', model)
  call('ZADD', prefix .. 'owners:' .. model, 'NX', turn, owner)
  call('ZADD', prefix .. 'model_alarms', 'NX', as_text(now + UNKNOWN_MODEL_SECONDS), model)
end

local function add_ready(id, owner, model)
  index_ready(id, owner, model)
  publish('r' .. model)
end
