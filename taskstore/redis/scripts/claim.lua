-- Lease the next task to a claim, or reserve it for a prefetch. choose.lua and lease.lua follow this
-- file in the script.
--
-- Reads and writes: task, due, running, passed_over; counts, the queue, prefetched tasks and the
-- workers through room.lua, queue.lua, prefetched.lua and workers.lua. Reads: text, runs.
-- Running it again returns the task of the first run.
--
-- ARGV[6]   For how many seconds longer than it waits a claim is one that waits.
-- ARGV[7]   Worker, as codec.worker_key gives it.
-- ARGV[8]   Its holder.
-- ARGV[9]   The worker's group.
-- ARGV[10]  The hold that stands for this claim.
-- ARGV[11]  For the first look of a claim: how many seconds it will wait, or 0. Then empty.
-- ARGV[12]  How many tasks the worker may have prefetched, for a prefetch; else 0.
-- ARGV[13]  How long a task may be passed over because workers prefer others.
-- ARGV[14]  Version that the task gets.
-- ARGV[15]  How many seconds a lease lasts.
-- ARGV[16]  The fields of the task that say whose it is, as JSON without braces.
-- ARGV[17]  The leases that the claim watches, of which it gets no task: ' 7:<lease id> 8:...'.
-- ARGV[18]  How many models the worker prefers. From ARGV[19] on: these models, and then the models
--           of the group, which are needed only after 'models'.
--
-- Returns {'ok', stored_task as it was before}; {'again', the same, its fields now as JSON} when
-- the first run has done it; {'none', 1 if a claim of another worker with the same models may find
-- a task all the same, or 0}; {'models'} when the group is unknown, and the script must be called
-- with its models; {'left'} when the claim has ended because its worker left; or {'late',
-- stored_task} when time has changed the task that is next, which must be stored first.
local wait_margin_seconds, worker, holder, group = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local hold, wait_seconds, max_prefetched = ARGV[10], tonumber(ARGV[11]), tonumber(ARGV[12])
local switch_seconds, new_version, lease_seconds = tonumber(ARGV[13]), ARGV[14], tonumber(ARGV[15])
local new_fields, watched = ARGV[16], ARGV[17]
local first_preferred, last_preferred = 19, 18 + tonumber(ARGV[18])
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
