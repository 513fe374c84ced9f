if is_due() then return {'due'} end
local workers, models = {}, {}
for _, worker in ipairs(call('ZREVRANGE', P .. 'workers', 0, -1)) do
  local group = call('HGET', P .. 'groups', worker)
  if not models[group] then models[group] = call('SMEMBERS', P .. 'group:' .. group) end
  workers[#workers + 1] = {worker, group, models[group],
    call('ZSCORE', P .. 'until:' .. group, worker), call('ZSCORE', P .. 'seen:' .. group, worker)}
end
return {'ok', text(now), counted('queued'), counted('running'), call('ZCARD', P .. 'finished'),
  workers}
