-- Lease the next task to a claim, or reserve it for a prefetch.
--
-- Reads and writes: task, due, running, passed_over; counts, the queue, prefetched tasks and the
-- workers through room.lua, queue.lua, prefetched.lua and workers.lua. Reads: text, runs.
-- Running it again returns the task of the first run.
--
-- From ARGV[6] on: the claim, as in claim_arguments.lua, and then the models of the group, which
-- are needed only after 'models'.
--
-- Returns what `serve` in lease.lua does; {'again', stored_task, its fields now as JSON} when the
-- first run has done it; or {'models'} when the group is unknown, and the script must be called
-- with its models.
local models = arguments_from(last_preferred + 1)

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
-- update_connected must be called afterwards.
local function record_claim()
  local old_group = call('HGET', prefix .. 'groups', worker)
  if old_group ~= group then set_group(old_group) end
  record_contact(worker, holder)
  if old_group ~= group then
    remove_former(holder, group)
    forget_surplus()
  end
  if wait_seconds > 0 then add_hold(worker, hold, now + wait_seconds + wait_margin_seconds) end
end

-- Before all else, since only this run knows that it is the second one.
local before = again and leased_before()
if before then return before end
if is_anything_due() then return {'due'} end
if wait_seconds then
  local is_known = group == 'any' or group == 'none'
    or call('EXISTS', prefix .. 'group:' .. group) == 1
  if not is_known and #models == 0 then return {'models'} end
  record_claim()
end
return serve()
