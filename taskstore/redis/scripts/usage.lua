-- Read what the tasks of an owner have used.
--
-- Reads: usage.
--
-- ARGV[6]  Owner.
-- ARGV[7]  The days, to the last argument.
--
-- Returns {'ok', a list of the fields and values of each day}.
local owner, days, found = ARGV[6], arguments_from(7), {}

for n, day in ipairs(days) do
  found[n] = call('HGETALL', prefix .. 'usage:' .. day .. ':' .. owner)
end
return {'ok', found}
