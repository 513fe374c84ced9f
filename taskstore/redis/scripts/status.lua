-- Count the tasks and list the workers.
--
-- Reads: counts, finished, groups, until, seen.
--
-- Takes no arguments of its own.
--
-- Returns {'ok', now, queued, running, finished, a list of {worker, group, until when it counts as
-- connected or '', when it was last seen}}.
if is_anything_due() then return {'due'} end

local workers = {}
local known = call('HGETALL', prefix .. 'groups')
for n = 1, #known, 2 do
  local worker, group = known[n], known[n + 1]
  workers[#workers + 1] = {worker, group,
    call('ZSCORE', prefix .. 'until:' .. group, worker) or '',
    call('ZSCORE', prefix .. 'seen:' .. group, worker)}
end
local queued, running = get_counts('queued', 'running')
return {'ok', as_text(now), queued, running,
  call('ZCARD', prefix .. 'finished'), workers}
