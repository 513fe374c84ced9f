-- id, mode (0 for little, 1 with the request).
if is_due() then return {'due'} end
local id = ARGV[4]
-- What is another's must look, and take as long, as what is not there.
if ARGV[6] and call('HGET', task(id), 'o') ~= ARGV[6] then return {'gone'} end
local h = call('HMGET', task(id), 'v', 't', ARGV[5] == '1' and 'r' or 'none')
if not h[1] then return {'gone'} end
local run = call('ZRANGE', P .. 'runs:' .. id, -1, -1)[1]
return {'ok', text(now), id, h[1], h[2], h[3] or '', call('HSTRLEN', task(id), 'r'),
  call('STRLEN', P .. 'text:' .. id), run or ''}
