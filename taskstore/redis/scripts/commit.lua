-- channel, id, version it must have, version it gets, JSON, state, claims, bytes, when it is due,
-- whether it is ready, when it finished, worker heard of, until when it is connected, seconds that
-- it took, most bytes, more of the text, its runs as start and member by turns.
local id, fresh, state = ARGV[5], ARGV[7], ARGV[9]
local size, max_bytes = tonumber(ARGV[11]), tonumber(ARGV[18])
local h = call('HMGET', task(id), 'v', 's', 'o', 'm', 'z', 'c')
if h[1] == fresh then return {'ok'} end
if not h[1] or h[1] ~= ARGV[6] then return {'conflict'} end
local before, owner, model = h[2], h[3], h[4]
local more = ARGV[19]
if more ~= '' then
  local text_key = P .. 'text:' .. id
  local grown = #more + 100 * (#ARGV - 19) / 2
  make_room(max_bytes, grown, 0, 1000)
  if counted('bytes') + grown > max_bytes
      or call('STRLEN', text_key) + #more > MAX_TEXT_BYTES then return {'long'} end
  local old_bytes = text_bytes(id)
  call('APPEND', text_key, more)
  for n = 20, #ARGV, 2 do call('ZADD', P .. 'runs:' .. id, ARGV[n], ARGV[n + 1]) end
  count('bytes', text_bytes(id) - old_bytes)
end
call('HSET', task(id), 'v', fresh, 't', ARGV[8])
set_due(id, ARGV[12])
if ARGV[15] ~= '' then heard(ARGV[15], tonumber(ARGV[16])) end
if before == 'queued' then unready(id, owner, model) end
local changed = before ~= state or h[6] ~= ARGV[10]
if changed or tonumber(h[5]) ~= size then
  tally(owner, before, -1, tonumber(h[5]))
  tally(owner, state, 1, size)
  call('HSET', task(id), 's', state, 'z', size, 'c', ARGV[10])
  if FINAL[state] or h[6] ~= ARGV[10] then drop_text(id) end
end
if changed and FINAL[state] then
  call('HDEL', task(id), 'r')
  local member = string.format('%016d:%s', turn(), id)
  call('ZADD', P .. 'finished', ARGV[14], member)
  call('HSET', task(id), 'f', member)
end
if ARGV[17] ~= '' then
  call('RPUSH', P .. 'took:' .. model, ARGV[17])
  call('LTRIM', P .. 'took:' .. model, -KEPT_PER_MODEL, -1)
  call('ZADD', P .. 'took', turn(), model)
  if call('ZCARD', P .. 'took') > MAX_MODELS then
    call('DEL', P .. 'took:' .. call('ZPOPMIN', P .. 'took')[1])
  end
end
if ARGV[13] == '1' then offer(id, owner, model) end
if changed and FINAL[state] then news('f' .. id)
elseif changed or more ~= '' then news('t' .. id) end
make_room(max_bytes, 0, 1, 1000)
return {'ok'}
