-- Count the unfinished tasks of each model, all tasks of an owner, and the bytes of all.
--
-- Reads: model_counts, tasks, counts.
--
-- ARGV[6]  Owner.
--
-- Returns {'ok', fields and values of model_counts, queued, running and final tasks of the owner,
-- bytes}.
local owner = ARGV[6]

if is_anything_due() then return {'due'} end

local function count(state) return call('ZCARD', prefix .. 'tasks:' .. state .. ':' .. owner) end

return {'ok', call('HGETALL', prefix .. 'model_counts'), count('queued'), count('running'),
  count('completed') + count('failed') + count('cancelled'), get_counts('bytes')}
