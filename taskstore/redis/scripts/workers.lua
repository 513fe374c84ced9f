-- Workers, shared by all scripts. The same rules as in memory/workers.py, memory/holders.py and
-- memory/presence.py; compared by tests/store/test_redis_histories.py.
--
-- A worker is connected while one of its claims waits, while it holds a lease, and for
-- GRACE_SECONDS after its last contact. Claims and leases are its holds, each with the time when
-- it ends by itself. After its contact or its holds have changed, update_connected must be called.

-- Stands for all models, where a worker has not named any.
local ANY_MODEL = ''
-- How the key of tasks begins that only those workers can run which said so: see names.py.
local EXTENDED = '\31'

local function is_plain(model) return string.sub(model, 1, #EXTENDED) ~= EXTENDED end

local function models_of(group)
  if group == 'any' then return {ANY_MODEL} end
  return call('ZRANGE', prefix .. 'group:' .. group, 0, -1)
end

local function groups_with(model)
  local groups = call('SMEMBERS', prefix .. 'has:' .. model)
  if is_plain(model) then groups[#groups + 1] = 'any' end
  return groups
end

local function count_connected(key)
  return call('ZCOUNT', prefix .. key, '(' .. as_text(now), '+inf')
end

local function count_connected_with(model)
  local count = 0
  for _, group in ipairs(groups_with(model)) do
    count = count + count_connected('until:' .. group)
  end
  return count
end

-- The last contact with a worker that has or had the model; '' for never.
local function last_seen_at(model)
  local keys, latest = {'had:' .. model}, ''
  if is_plain(model) then keys[#keys + 1] = 'had:' .. ANY_MODEL end
  for _, group in ipairs(groups_with(model)) do keys[#keys + 1] = 'seen:' .. group end
  for _, key in ipairs(keys) do
    local _, seen_at = last_of(key)
    if seen_at and (latest == '' or seen_at > tonumber(latest)) then latest = as_text(seen_at) end
  end
  return latest
end

local function update_connected(worker)
  local holds = 'holds:' .. worker
  call('ZREMRANGEBYSCORE', prefix .. holds, '-inf', as_text(now))
  local contact_at = tonumber(call('ZSCORE', prefix .. 'contacts', worker) or '-inf')
  local _, held_until = last_of(holds)
  local connected_until = math.max(contact_at + GRACE_SECONDS, held_until or 0)
  local group = call('HGET', prefix .. 'groups', worker)
  if connected_until > now then
    call('ZADD', prefix .. 'connected', as_text(connected_until), worker)
    if group then call('ZADD', prefix .. 'until:' .. group, as_text(connected_until), worker) end
  else
    call('ZREM', prefix .. 'connected', worker)
    if group then call('ZREM', prefix .. 'until:' .. group, worker) end
  end
end

local function begin_connection()
  if count_connected('connected') == 0 then
    call('SET', prefix .. 'connected_since', as_text(now))
  end
end

-- Record the time of a contact; false for an unknown worker.
local function touch(worker, holder)
  local group = call('HGET', prefix .. 'groups', worker)
  if not group then return false end
  call('ZADD', prefix .. 'seen:' .. group, 'GT', as_text(now), worker)
  call('ZADD', prefix .. 'workers:' .. holder, next_turn(), worker)
  return true
end

local function record_contact(worker, holder)
  if not touch(worker, holder) then return end
  begin_connection()
  call('ZADD', prefix .. 'contacts', 'GT', as_text(now), worker)
end

-- Let a worker count as connected no longer than it has claims or leases.
local function forget_contact(worker) call('ZREM', prefix .. 'contacts', worker) end

local function add_hold(worker, hold, ends_at)
  begin_connection()
  call('ZADD', prefix .. 'holds:' .. worker, as_text(ends_at), hold)
end

-- Returns whether it was there.
local function remove_hold(worker, hold)
  return call('ZREM', prefix .. 'holds:' .. worker, hold) == 1
end

-- A lease of this length has ended at this time: unless there was other contact since it was last
-- renewed, the worker is lost.
local function record_lost_lease(worker, lease_seconds, ended_at)
  local group = call('HGET', prefix .. 'groups', worker)
  local seen_at = group and tonumber(call('ZSCORE', prefix .. 'seen:' .. group, worker))
  if seen_at and seen_at + lease_seconds <= ended_at then forget_contact(worker) end
end

-- End the waiting claims of a worker, and return the ids of the tasks that it holds.
local function end_claims(worker)
  local ids = {}
  for _, hold in ipairs(call('ZRANGE', prefix .. 'holds:' .. worker, 0, -1)) do
    if string.sub(hold, 1, 1) == 't' then
      ids[#ids + 1] = string.sub(hold, 2)
    else
      call('ZREM', prefix .. 'holds:' .. worker, hold)
    end
  end
  publish('l' .. worker)
  return ids
end

-- What a worker reported of its Ollama takes so many bytes.
local function report_bytes(worker)
  local key = prefix .. 'inventory:' .. worker
  return call('HSTRLEN', key, 'content') + call('HSTRLEN', key, 'loaded')
end

local function forget_report(worker)
  add_to_count('inventory_bytes', negative(report_bytes(worker)))
  call('UNLINK', prefix .. 'inventory:' .. worker)
  call('SREM', prefix .. 'inventories', worker)
end

local function add_names(holder, number) call('HINCRBY', prefix .. 'names', holder, number) end

-- Remember when a worker was last in contact that had the model.
local function add_former(holder, model, seen_at)
  if not call('ZSCORE', prefix .. 'former:' .. holder, model) then add_names(holder, 1) end
  call('ZADD', prefix .. 'former:' .. holder, 'GT', seen_at, model)
  call('ZADD', prefix .. 'had:' .. model, 'GT', seen_at, holder)
end

local function remove_former(holder, model)
  if call('ZREM', prefix .. 'former:' .. holder, model) == 1 then
    add_names(holder, -1)
    call('ZREM', prefix .. 'had:' .. model, holder)
  end
end

-- Forget a worker, but not when it had its models.
local function forget_worker(worker, holder)
  local group = call('HGET', prefix .. 'groups', worker)
  local seen, models = prefix .. 'seen:' .. group, models_of(group)
  local seen_at = call('ZSCORE', seen, worker)
  call('HDEL', prefix .. 'groups', worker)
  call('ZREM', prefix .. 'workers:' .. holder, worker)
  if tonumber(call('ZINCRBY', prefix .. 'holders', -1, holder)) == 0 then
    call('ZREM', prefix .. 'holders', holder)
  end
  call('ZREM', seen, worker)
  call('ZREM', prefix .. 'until:' .. group, worker)
  add_names(holder, 0 - #models)
  for _, model in ipairs(models) do add_former(holder, model, seen_at) end
  if group ~= 'any' and call('EXISTS', seen) == 0 then
    for _, model in ipairs(models) do call('SREM', prefix .. 'has:' .. model, group) end
    call('DEL', prefix .. 'group:' .. group)
  end
end
