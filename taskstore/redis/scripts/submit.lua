-- channel, version, owner, model key, ttl, bytes, JSON after the times, request, key, limits (4).
if is_due() then return {'due'} end
local version, owner, model, start_in = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local size, rest, request, idem = tonumber(ARGV[9]), ARGV[10], ARGV[11], ARGV[12]
local max_mine, max_queued, max_bytes = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local old = idem ~= '' and call('HGET', P .. 'keys', idem)
if old and call('EXISTS', task(old)) == 1 then
  local h = call('HMGET', task(old), 't', 'r')
  return {'known', old, h[1], h[2] or ''}
end
if owner ~= '' then
  local mine = call('HMGET', P .. 'share:' .. owner, 'queued', 'bytes')
  if tonumber(mine[1] or 0) >= max_mine then return {'mine'} end
  if tonumber(mine[2] or 0) + size > math.floor(max_bytes / 2) then return {'share'} end
end
if counted('queued') >= max_queued then return {'queue'} end
if counted('bytes') - counted('finished_bytes') + size > max_bytes then return {'full'} end
make_room(max_bytes, size, 0, 1000000)
local id = call('INCR', P .. 'last')
local start_by = start_in > 0 and now + start_in or 0
local fields = '{"task_id":' .. id .. ',"submitted_at":' .. text(now)
    .. ',"start_by":' .. text(start_by) .. rest
call('HSET', task(id), 'v', version, 't', fields, 'r', request, 's', 'queued', 'o', owner,
  'm', model, 'z', size, 'c', 0, 'k', idem, 'f', '')
if idem ~= '' then call('HSET', P .. 'keys', idem, id) end
tally(owner, 'queued', 1, size)
set_due(id, start_in > 0 and text(start_by) or '')
offer(id, owner, model)
make_room(max_bytes, 0, 1, 1000)
return {'ok', id, fields, request}
