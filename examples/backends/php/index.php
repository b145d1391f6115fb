<?php
// Answers messages with the client's name, behind echoring: clients have WebSockets, this script has requests, and no state.
//
//     export WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)
//     php -S 127.0.0.1:8000 examples/backends/php/index.php
//     # in echoring.toml: [[backends]] with path = "/talk", url = "http://127.0.0.1:8000/" and the same secret
//
// docs/guide/back-ends.md explains the requests.

declare(strict_types=1);

// A request that is older or newer is refused: it may be a copy of one that somebody has recorded.
const TOLERANCE_S = 300;

/** Whether the request comes from echoring, and now. The signature is about the bytes, not about the JSON in them. */
function is_genuine(string $body): bool
{
    $secret = (string) getenv('WEBHOOK_SECRET');
    $key = str_starts_with($secret, 'whsec_') ? (string) base64_decode(substr($secret, 6), true) : $secret;
    $sent_at = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
    if (strlen($key) < 24 || !ctype_digit($sent_at) || abs(time() - (int) $sent_at) > TOLERANCE_S) {
        return false;
    }
    $id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$sent_at.$body", $key, true));
    // There is a signature for each secret of the server.
    foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

/** What echoring is to do: nothing if it is empty. */
function answer(array $event): array
{
    $name = $event['identity'] ?? 'somebody';
    switch ($event['event']) {
        case 'connect':
            parse_str($event['query'], $query);
            // The client is known by this name from now on, also to POST /identities/NAME of the admin address.
            return isset($query['name']) ? ['identity' => (string) $query['name']] : [];
        case 'message':
            // With `batch` above 1, messages are in a list.
            $messages = $event['messages'] ?? [$event];
            if (in_array('bye', array_column($messages, 'text'), true)) {
                return ['close' => ['code' => 1000, 'reason' => 'bye']];
            }
            $said = array_column($messages, 'text');
            return ['messages' => array_map(fn(string $text): array => ['text' => "$name says: $text"], $said)];
        default:
            return [];
    }
}

$body = (string) file_get_contents('php://input');
if (!is_genuine($body)) {
    http_response_code(401);
    return;
}
$answer = answer(json_decode($body, true, 16, JSON_THROW_ON_ERROR));
if ($answer === []) {
    http_response_code(204);
    return;
}
header('Content-Type: application/json');
echo json_encode($answer, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES);
