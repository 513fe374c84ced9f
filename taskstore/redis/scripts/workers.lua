-- Workers, shared by all scripts. The same rules as in memory/workers.py, memory/holders.py and
-- memory/presence.py; compared by tests/store/test_redis_histories.py.
--
-- A worker is connected while one of its claims waits, while it holds a lease, and for
-- GRACE_SECONDS after its last contact. Claims and leases are its holds, each with the time when
-- it ends by itself. After its contact or its holds have changed, update_connected must be called.

-- How the key of tasks begins that only those workers can run which said so: see names.py.
local EXTENDED = '\31'

local function is_plain(model) return string.sub(model, 1, #EXTENDED) ~= EXTENDED end

local BATCH = 1000
-- The models of a longer list are not indexed one by one, which would take long; there are few such
-- lists, because each holder may have so many names.
local MAX_INDEXED = 200

-- How many names a group has; that of workers which named none has one, for all models.
local function count_names(group)
  return group == 'any' and 1 or call('ZCARD', prefix .. 'group:' .. group)
end

-- The groups with workers that have or had the model.
local function groups_with(model)
  local groups = call('SMEMBERS', prefix .. 'has:' .. model)
  for _, group in ipairs(call('SMEMBERS', prefix .. 'long_lists')) do
    if call('ZSCORE', prefix .. 'group:' .. group, model) then groups[#groups + 1] = group end
  end
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

-- How many connected workers have the model, but can run plain tasks only: to be asked if none is
-- connected that can run the others. See Availability in snapshots.py.
local function count_too_old(model)
  if is_plain(model) then return 0 end
  return count_connected_with(string.sub(model, #EXTENDED + 1))
end

-- The last contact with a worker that has or had the model; '' for never.
local function last_seen_at(model)
  local latest = ''
  for _, group in ipairs(groups_with(model)) do
    for _, family in ipairs({'seen:', 'had:'}) do
      local _, seen_at = last_of(family .. group)
      if seen_at and (latest == '' or seen_at > tonumber(latest)) then
        latest = as_text(seen_at)
      end
    end
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

-- The ids of the tasks that a worker holds.
local function held_tasks(worker)
  local ids = {}
  for _, hold in ipairs(call('ZRANGE', prefix .. 'holds:' .. worker, 0, -1)) do
    if string.sub(hold, 1, 1) == 't' then ids[#ids + 1] = string.sub(hold, 2) end
  end
  return ids
end

-- End the waiting claims of a worker.
local function end_claims(worker)
  for _, hold in ipairs(call('ZRANGE', prefix .. 'holds:' .. worker, 0, -1)) do
    if string.sub(hold, 1, 1) ~= 't' then call('ZREM', prefix .. 'holds:' .. worker, hold) end
  end
  publish('l' .. worker)
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

local function create_group(group, models)
  local scored = {}
  if #models > MAX_INDEXED then call('SADD', prefix .. 'long_lists', group) end
  for n, model in ipairs(models) do
    if #models <= MAX_INDEXED then call('SADD', prefix .. 'has:' .. model, group) end
    scored[#scored + 1] = 0
    scored[#scored + 1] = model
    if #scored >= BATCH or n == #models then
      call('ZADD', prefix .. 'group:' .. group, unpack(scored))
      scored = {}
    end
  end
end

local function forget_group_if_unused(group)
  if call('EXISTS', prefix .. 'seen:' .. group, prefix .. 'had:' .. group) > 0 then return end
  if call('SREM', prefix .. 'long_lists', group) == 0 then
    for _, model in ipairs(call('ZRANGE', prefix .. 'group:' .. group, 0, -1)) do
      call('SREM', prefix .. 'has:' .. model, group)
    end
  end
  call('UNLINK', prefix .. 'group:' .. group)
end

-- Remember when a worker of the holder was last in contact that had the models of a group.
local function add_former(holder, group, seen_at)
  if not call('ZSCORE', prefix .. 'former:' .. holder, group) then
    add_names(holder, count_names(group))
  end
  call('ZADD', prefix .. 'former:' .. holder, 'GT', seen_at, group)
  call('ZADD', prefix .. 'had:' .. group, 'GT', seen_at, holder)
end

local function remove_former(holder, group)
  if call('ZREM', prefix .. 'former:' .. holder, group) == 1 then
    -- Before there were groups in it, each member was the name of a model.
    add_names(holder, 0 - math.max(1, count_names(group)))
    call('ZREM', prefix .. 'had:' .. group, holder)
    forget_group_if_unused(group)
  end
end

-- The same rule as Holders.remove in memory/holders.py.
local function loses_models(group, new_group)
  if group == 'none' then return false end
  if not new_group or group == 'any' or count_names(group) > MAX_NAMES_COMPARED then
    return true
  end
  return #call('ZDIFF', 2, prefix .. 'group:' .. group, prefix .. 'group:' .. new_group) > 0
end

-- Forget a worker, but not when it had its models, unless its new group has them all.
local function forget_worker(worker, holder, new_group)
  local group = call('HGET', prefix .. 'groups', worker)
  local seen_at = call('ZSCORE', prefix .. 'seen:' .. group, worker)
  call('HDEL', prefix .. 'groups', worker)
  call('ZREM', prefix .. 'workers:' .. holder, worker)
  if tonumber(call('ZINCRBY', prefix .. 'holders', -1, holder)) == 0 then
    call('ZREM', prefix .. 'holders', holder)
  end
  call('ZREM', prefix .. 'seen:' .. group, worker)
  call('ZREM', prefix .. 'until:' .. group, worker)
  add_names(holder, 0 - count_names(group))
  if loses_models(group, new_group) then add_former(holder, group, seen_at) end
  forget_group_if_unused(group)
end
