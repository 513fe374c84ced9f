-- id.
return {'ok', call('GETRANGE', P .. 'text:' .. ARGV[4], 0, -1),
  call('ZRANGE', P .. 'runs:' .. ARGV[4], 0, -1)}
