-- Find out whether Redis can write.
--
-- Writes: turn, which stays as it is.
--
-- Takes no arguments of its own.
--
-- Returns {'ok'}; or Redis answers with an error.
call('INCRBY', prefix .. 'turn', 0)
return {'ok'}
