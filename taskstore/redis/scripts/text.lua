-- Read the whole text of the current attempt.
--
-- Reads: text, runs.
--
-- ARGV[6]  Task id.
--
-- Returns {'ok', text as `text:<id>` has it, its runs}.
local id = ARGV[6]

return {'ok', call('GETRANGE', prefix .. 'text:' .. id, 0, -1),
  call('ZRANGE', prefix .. 'runs:' .. id, 0, -1)}
