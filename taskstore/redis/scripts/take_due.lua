-- reserve seconds, most bytes. Who takes what is due does it; nobody else does, for a while.
local late = make_room(tonumber(ARGV[5]), 0, 1, 500)
local taken = {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', text(now), 'LIMIT', 0, 100)) do
  local h = call('HMGET', task(id), 'v', 't')
  if h[1] then
    taken[#taken + 1] = {'ok', text(now), id, h[1], h[2], '', call('HSTRLEN', task(id), 'r'),
      call('STRLEN', P .. 'text:' .. id), '', call('ZSCORE', P .. 'due', id)}
    call('ZADD', P .. 'due', text(now + tonumber(ARGV[4])), id)
  else call('ZREM', P .. 'due', id) end
end
local first = call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2]
return {'ok', text(now), first or '', late and 1 or 0, taken}
