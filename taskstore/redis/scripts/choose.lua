-- The channel, reserve seconds, noted (1 for a new claim), worker, connected seconds, group, models.
-- The task is put aside so that no two choose the same; whoever chose it takes it with `commit`,
-- or else it is due, and ready again, after the reserve.
if is_due() then return {'due'} end
local worker, group = ARGV[7], ARGV[9]
if ARGV[6] == '1' then
  local old = call('HGET', P .. 'groups', worker)
  if old and old ~= group then leave(worker, old) end
  if group ~= 'any' and call('EXISTS', P .. 'until:' .. group) == 0 then
    for n = 10, #ARGV do
      call('SADD', P .. 'has:' .. ARGV[n], group)
      call('SADD', P .. 'group:' .. group, ARGV[n])
    end
  end
  call('HSET', P .. 'groups', worker, group)
  seen(worker, group, now + tonumber(ARGV[8]))
  if call('ZCARD', P .. 'workers') > MAX_WORKERS then
    local first = call('ZPOPMIN', P .. 'workers')[1]
    leave(first, call('HGET', P .. 'groups', first))
    call('HDEL', P .. 'groups', first)
    call('ZREM', P .. 'connected', first)
  end
end
local wanted = {}
for n = 10, #ARGV do wanted[ARGV[n]] = true end
local function is_wanted(model)
  if group == 'any' then return true end
  if wanted[model] == nil then wanted[model] = workers_with(model) == 0 end
  return wanted[model]
end
local function oldest(owner)
  local models, from = P .. 'models:' .. owner, 0
  while true do
    local some = call('ZRANGE', models, from, from + 49, 'WITHSCORES')
    for n = 1, #some, 2 do
      if is_wanted(some[n]) then return some[n + 1], some[n] end
    end
    if #some < 100 then return nil end
    from = from + 50
  end
end
for _, owner in ipairs(call('ZRANGE', P .. 'round', 0, -1)) do
  local id, model = oldest(owner)
  while id do
    call('ZADD', P .. 'round', 'XX', turn(), owner)
    unready(id, owner, model)
    local h = call('HMGET', task(id), 'v', 't', 'r')
    if h[1] then
      call('ZADD', P .. 'due', text(now + tonumber(ARGV[5])), id)
      return {'ok', text(now), id, h[1], h[2], h[3] or '', call('HSTRLEN', task(id), 'r'),
        call('STRLEN', P .. 'text:' .. id), ''}
    end
    id, model = oldest(owner)
  end
end
return {'none'}
