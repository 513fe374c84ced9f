-- Count the tasks and list the workers, those seen last first.
--
-- Reads: counts, finished, workers, groups, group, until, seen.
--
-- Takes no arguments of its own.
--
-- Returns {'ok', now, queued, running, finished, a list of {worker, group, models of the group,
-- until when it counts as connected, when it was last seen}}.
if is_anything_due() then return {'due'} end

local workers, models = {}, {}
for _, worker in ipairs(call('ZREVRANGE', prefix .. 'workers', 0, -1)) do
  local group = call('HGET', prefix .. 'groups', worker)
  if not models[group] then models[group] = call('SMEMBERS', prefix .. 'group:' .. group) end
  workers[#workers + 1] = {worker, group, models[group],
    call('ZSCORE', prefix .. 'until:' .. group, worker),
    call('ZSCORE', prefix .. 'seen:' .. group, worker)}
end
return {'ok', as_text(now), get_count('queued'), get_count('running'),
  call('ZCARD', prefix .. 'finished'), workers}
