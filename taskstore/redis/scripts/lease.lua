-- Leasing a task to a claim: a part of claim.lua and submit.lua.

-- The fields of a task with those that the lease gives it, as tasks.claim and tasks.prefetch do; of
-- two fields with the same name, the last counts.
local function leased_fields(fields, old, text_epoch)
  local more
  if max_prefetched > 0 then
    more = '"is_prefetched":true,"expires_at":' .. as_text(now + PREFETCH_SECONDS)
  else
    more = '"is_prefetched":false,"state":"running","attempt":' .. (old.attempt or 0) + 1
      .. ',"text_epoch":' .. text_epoch .. ',"started_at":' .. as_text(now)
      .. ',"expires_at":' .. as_text(now + lease_seconds)
  end
  return string.sub(fields, 1, -2) .. ',' .. new_fields .. ',' .. more .. '}'
end

-- The same rule as tasks.due_at.
local function next_due_at(old)
  local start_by, timeout = old.start_by or 0, old.timeout_seconds or 0
  if max_prefetched == 0 then
    return as_text(now + math.min(lease_seconds, timeout > 0 and timeout or lease_seconds))
  end
  local is_limited = start_by > now and (old.attempt or 0) == 0
  return as_text(math.min(now + PREFETCH_SECONDS, is_limited and start_by or math.huge))
end

-- Take the task out of where it is: among the ready or the prefetched ones.
local function take(id, owner, model, reserved_for)
  if not reserved_for then
    if remove_ready(id, owner, model) then call('ZADD', prefix .. 'round', next_turn(), owner) end
    return
  end
  remove_prefetched(id, owner, model, reserved_for)
  remove_hold(reserved_for, 't' .. id)
  update_connected(reserved_for)
end

local function begin(id, fields, owner, model, size)
  change_counts(owner, 'queued', size, 'running', size)
  index_state(id, owner, model, 'queued', -1)
  index_state(id, owner, model, 'running', 1)
  delete_text(id)
  publish('t' .. id .. news(fields, 0, '', {}))
end

local function lease(id, task, old)
  local fields, owner, model, size = task[1], task[2], task[3], tonumber(task[4])
  local state, text_epoch = 'queued', tonumber(task[6])
  if max_prefetched == 0 then state, text_epoch = 'running', text_epoch + 1 end
  if not wait_seconds then record_contact(worker, holder) end
  end_choice()
  take(id, owner, model, task[5])
  fields = leased_fields(fields, old, text_epoch)
  call('HSET', task_key(id), 'v', new_version, 't', fields, 's', state, 'c', text_epoch)
  set_due(id, next_due_at(old))
  call('SADD', prefix .. 'running', id)
  add_hold(worker, 't' .. id, now + (max_prefetched > 0 and PREFETCH_SECONDS or lease_seconds))
  remove_hold(worker, hold)
  update_connected(worker)
  if max_prefetched > 0 then
    add_prefetched(id, owner, model, worker)
  else
    begin(id, fields, owner, model, size)
  end
  -- Somebody may still hope to renew the last lease.
  if (old.expires_at or 0) > 0 then publish('e' .. id) end
end

-- What the first run, whose answer was lost, has leased.
local function leased_before()
  for _, one in ipairs(call('ZRANGE', prefix .. 'holds:' .. worker, 0, -1)) do
    local id = string.match(one, '^t(%d+)$')
    if id and call('HGET', task_key(id), 'v') == new_version then
      local task, fields = stored_task(id, true), call('HGET', task_key(id), 't')
      local new_at = string.find(fields, ',' .. new_fields, 1, true)
      task[3] = string.sub(fields, 1, new_at - 1) .. '}'
      return {'again', task, fields}
    end
  end
end

local function may_suit_others()
  local own = count_prefetched(worker)
  return max_prefetched == 0 and own > 0 or max_prefetched ~= 0 and own >= max_prefetched
end

-- Lease the task that is next for the claim, or reserve it for a prefetch.
--
-- Returns {'ok', stored_task as it was before}; {'none', 1 if a claim of another worker with the
-- same models may find a task all the same, or 0}; {'left'} when the claim has ended because its
-- worker left; or {'late', stored_task} when time has changed the task that is next, which must be
-- stored first.
local function serve()
  if not wait_seconds and not call('ZSCORE', prefix .. 'holds:' .. worker, hold) then
    return {'left'}
  end
  local id = choose()
  if not id then
    update_connected(worker)
    return {'none', may_suit_others() and 1 or 0}
  end
  local stored = stored_task(id, true)
  local task = call('HMGET', task_key(id), 't', 'o', 'm', 'z', 'h', 'c')
  local old = cjson.decode(task[1])
  -- The same rule as tasks.age, while another process is about to store what it says.
  local start_by = old.start_by or 0
  if (old.attempt or 0) == 0 and start_by > 0 and start_by <= now then
    update_connected(worker)
    return {'late', stored}
  end
  -- The same rule as claims.watches.
  if string.find(watched, ' ' .. id .. ':' .. (old.lease_id or '') .. ' ', 1, true) then
    update_connected(worker)
    return {'none', 1}
  end
  lease(id, task, old)
  return {'ok', stored}
end
