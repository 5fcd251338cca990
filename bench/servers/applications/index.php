<?php

$body = file_get_contents('php://input');
$number = preg_match('/^\d{10}/', $body) ? (int) substr($body, 0, 10) : -1;
if ($number > 0 && $number % 2) {
    usleep((int) (getenv('LATE') * 1e6));
}
$line = sprintf("%d %d %s\n", $number, strlen($body), hash('sha256', $body));
file_put_contents(getenv('HANDLED'), $line, FILE_APPEND);
echo 'ok';
