-- The claim that a script serves: claim.lua, or submit.lua for a claim that waits. Before this
-- file, the loader sets CLAIM_AT, the first of the arguments.
--
-- CLAIM_AT       For how many seconds longer than it waits a claim is one that waits.
-- CLAIM_AT + 1   Worker, as codec.worker_key gives it.
-- CLAIM_AT + 2   Its holder.
-- CLAIM_AT + 3   The worker's group.
-- CLAIM_AT + 4   The hold that stands for this claim.
-- CLAIM_AT + 5   For the first look of a claim: how many seconds it will wait, or 0. Then empty.
-- CLAIM_AT + 6   How many tasks the worker may have prefetched, for a prefetch; else 0.
-- CLAIM_AT + 7   How long a task may be passed over because workers prefer others.
-- CLAIM_AT + 8   Version that the task gets.
-- CLAIM_AT + 9   How many seconds a lease lasts.
-- CLAIM_AT + 10  The fields of the task that say whose it is, as JSON without braces.
-- CLAIM_AT + 11  The leases that the claim watches, of which it gets no task: ' 7:<lease id> ...'.
-- CLAIM_AT + 12  How many models the worker prefers, and after it these models.
local wait_margin_seconds, worker, holder, group, hold, wait_seconds, max_prefetched,
  switch_seconds, new_version, lease_seconds, new_fields, watched =
  unpack(ARGV, CLAIM_AT, CLAIM_AT + 11)
wait_margin_seconds, wait_seconds = tonumber(wait_margin_seconds), tonumber(wait_seconds)
max_prefetched, switch_seconds = tonumber(max_prefetched), tonumber(switch_seconds)
lease_seconds = tonumber(lease_seconds)
local first_preferred = CLAIM_AT + 13
local last_preferred = first_preferred - 1 + tonumber(ARGV[CLAIM_AT + 12] or 0)
