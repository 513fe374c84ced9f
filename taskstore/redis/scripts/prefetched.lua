-- Queued tasks that are reserved for the workers that have prefetched them, shared by all scripts.
-- The same as in memory/prefetched.py; compared by tests/store/test_redis_histories.py.

local function count_prefetched(worker)
  return call('SCARD', prefix .. 'prefetched_worker:' .. worker)
end

local function add_prefetched(id, owner, model, worker)
  local turn = next_turn()
  call('HSET', task_key(id), 'h', worker)
  call('ZADD', prefix .. 'prefetched', turn, id)
  call('ZADD', prefix .. 'prefetched_model:' .. model, turn, id)
  call('SADD', prefix .. 'prefetched_models', model)
  call('ZADD', prefix .. 'prefetched_owner:' .. owner, id, id)
  call('SADD', prefix .. 'prefetched_worker:' .. worker, id)
end

local function remove_prefetched(id, owner, model, worker)
  call('HDEL', task_key(id), 'h')
  call('ZREM', prefix .. 'prefetched', id)
  call('ZREM', prefix .. 'prefetched_model:' .. model, id)
  if call('EXISTS', prefix .. 'prefetched_model:' .. model) == 0 then
    call('SREM', prefix .. 'prefetched_models', model)
  end
  call('ZREM', prefix .. 'prefetched_owner:' .. owner, id)
  call('SREM', prefix .. 'prefetched_worker:' .. worker, id)
end

-- The id of the task with one of the models that was reserved first for another worker; nil for
-- none. It takes as many steps as there are models, and as the worker itself has tasks.
local function first_of_others(models, worker)
  local own = count_prefetched(worker)
  local first_id, first_turn
  for _, model in ipairs(models) do
    local found = call('ZRANGE', prefix .. 'prefetched_model:' .. model, 0, own, 'WITHSCORES')
    for n = 1, #found, 2 do
      local id, turn = found[n], tonumber(found[n + 1])
      if call('HGET', task_key(id), 'h') ~= worker then
        if not first_turn or turn < first_turn then
          first_id, first_turn = id, turn
        end
        break
      end
    end
  end
  return first_id
end

-- The place in the queue of a task that is prefetched; nil for another one.
local function prefetched_position(id)
  local before = call('ZRANK', prefix .. 'prefetched', id)
  return before and before + 1
end
