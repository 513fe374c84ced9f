-- id, version.
if again and call('EXISTS', task(ARGV[4])) == 0 then return {'ok'} end
if call('HGET', task(ARGV[4]), 'v') ~= ARGV[5] then return {'conflict'} end
forget(ARGV[4])
return {'ok'}
