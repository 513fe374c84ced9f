-- Count the tasks and list the workers.
--
-- Reads: counts, finished, groups, group, until, seen.
--
-- Takes no arguments of its own.
--
-- Returns {'ok', now, queued, running, finished, a list of {worker, group, until when it counts as
-- connected or '', when it was last seen}, a list of {group, its models}}.
if is_anything_due() then return {'due'} end

local workers, groups, is_listed = {}, {}, {}
local known = call('HGETALL', prefix .. 'groups')
for n = 1, #known, 2 do
  local worker, group = known[n], known[n + 1]
  workers[#workers + 1] = {worker, group,
    call('ZSCORE', prefix .. 'until:' .. group, worker) or '',
    call('ZSCORE', prefix .. 'seen:' .. group, worker)}
  if group ~= 'any' and not is_listed[group] then
    is_listed[group] = true
    groups[#groups + 1] = {group, models_of(group)}
  end
end
return {'ok', as_text(now), get_count('queued'), get_count('running'),
  call('ZCARD', prefix .. 'finished'), workers, groups}
