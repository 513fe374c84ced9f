-- Choose the next task for a worker, and reserve it so that nobody else gets it. The worker takes
-- it with commit.lua; if that does not come in time, the task is due and becomes ready again.
--
-- Reads and writes: groups, group, has, until, seen, connected, workers, round, models, ready,
-- lane, due. Reads: task, text, runs.
--
-- ARGV[6]   How many seconds the task is reserved.
-- ARGV[7]   Worker.
-- ARGV[8]   The worker's group.
-- ARGV[9]   For how many seconds the worker now counts as connected; empty to leave that alone.
-- ARGV[10]  The worker's models, and so on to the last argument; none for the group 'any'.
--
-- Returns {'ok', stored_task} or {'none'}.
local reserve_seconds, worker, group = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local connected_seconds, models = tonumber(ARGV[9]), arguments_from(10)

local function forget_worker_seen_first()
  local first = call('ZPOPMIN', prefix .. 'workers')[1]
  leave_group(first, call('HGET', prefix .. 'groups', first))
  call('HDEL', prefix .. 'groups', first)
  call('ZREM', prefix .. 'connected', first)
end

-- The same rule as Workers.record_claim in memory/workers.py; compared by
-- tests/store/test_redis_histories.py.
local function record_claim()
  local old_group = call('HGET', prefix .. 'groups', worker)
  if old_group and old_group ~= group then leave_group(worker, old_group) end
  if group ~= 'any' and call('EXISTS', prefix .. 'until:' .. group) == 0 then
    for _, model in ipairs(models) do
      call('SADD', prefix .. 'has:' .. model, group)
      call('SADD', prefix .. 'group:' .. group, model)
    end
  end
  call('HSET', prefix .. 'groups', worker, group)
  set_connected(worker, group, now + connected_seconds)
  if call('ZCARD', prefix .. 'workers') > MAX_WORKERS then forget_worker_seen_first() end
end

-- By model, whether the worker may run it: it has the model, or no connected worker has.
local can_run = {}
for _, model in ipairs(models) do can_run[model] = true end
local function may_run(model)
  if group == 'any' then return true end
  if can_run[model] == nil then can_run[model] = count_workers_with(model) == 0 end
  return can_run[model]
end

local PAGE = 50
local function oldest_task(owner)
  local first = 0
  while true do
    -- Two entries for each model: its name, and the id of its oldest task.
    local page = call('ZRANGE', prefix .. 'models:' .. owner, first, first + PAGE - 1, 'WITHSCORES')
    for n = 1, #page, 2 do
      if may_run(page[n]) then return page[n + 1], page[n] end
    end
    if #page < 2 * PAGE then return nil end
    first = first + PAGE
  end
end

if is_anything_due() then return {'due'} end
if connected_seconds then record_claim() end
-- The same order as FairQueue.first in memory/fair_queue.py and ReadyQueue.first in
-- memory/ready_queue.py; compared by tests/store/test_redis_histories.py.
for _, owner in ipairs(call('ZRANGE', prefix .. 'round', 0, -1)) do
  local id, model = oldest_task(owner)
  while id do
    call('ZADD', prefix .. 'round', 'XX', next_turn(), owner)
    remove_ready(id, owner, model)
    local task = stored_task(id, true)
    if task then
      call('ZADD', prefix .. 'due', as_text(now + reserve_seconds), id)
      return {'ok', task}
    end
    id, model = oldest_task(owner)
  end
end
return {'none'}
