-- id, claims and offset of who reads: the text is given from there on.
if is_due() then return {'due'} end
local id = ARGV[4]
if call('HGET', task(id), 'o') ~= ARGV[7] then return {'gone'} end
local h = call('HMGET', task(id), 't', 'r', 's', 'o', 'm', 'c')
local owner, model = h[4], h[5]
local place, workers, anybody, seen_at, took = 0, 0, 0, '', {}
if h[3] == 'queued' then
  place = call('ZCOUNT', P .. 'ready:' .. owner, '-inf', '(' .. id) + 1
  local before, turns = 0, place
  for _, other in ipairs(call('ZRANGE', P .. 'round', 0, -1)) do
    if other == owner then turns = place - 1
    else before = before + math.min(call('ZCARD', P .. 'ready:' .. other), turns) end
  end
  place = before + place
end
local pieces, whole = {}, 0
if not FINAL[h[3]] then
  workers = workers_with(model)
  anybody = call('ZCOUNT', P .. 'connected', '(' .. text(now), '+inf')
  for _, group in ipairs(groups_of(model)) do
    local last = call('ZREVRANGE', P .. 'seen:' .. group, 0, 0, 'WITHSCORES')[2]
    if last and (seen_at == '' or tonumber(last) > tonumber(seen_at)) then seen_at = last end
  end
  took = call('LRANGE', P .. 'took:' .. model, 0, -1)
  whole = call('STRLEN', P .. 'text:' .. id)
  local from = h[6] == ARGV[5] and ARGV[6] or '0'
  if whole > tonumber(from) * 4 then
    local runs = P .. 'runs:' .. id
    pieces = call('ZREVRANGEBYSCORE', runs, from, '-inf', 'LIMIT', 0, 1)
    for _, run in ipairs(call('ZRANGEBYSCORE', runs, '(' .. from, '+inf')) do
      pieces[#pieces + 1] = run
    end
    pieces = {from, call('GETRANGE', P .. 'text:' .. id, tonumber(from) * 4, -1), pieces}
  end
end
return {'ok', text(now), id, h[1], h[2] or '', place, workers, anybody, seen_at, took, whole,
  pieces}
