// Verifies a callback with the official library of Standard Webhooks: SECRET, BODY, and the three headers. Prints the verified body.
import { Webhook } from 'standardwebhooks';

const { SECRET, BODY, ID, TIMESTAMP, SIGNATURE } = process.env;
const headers = { 'webhook-id': ID, 'webhook-timestamp': TIMESTAMP, 'webhook-signature': SIGNATURE };
const verified = new Webhook(SECRET).verify(BODY, headers);
let forged = true;
try {
  new Webhook(SECRET).verify(BODY.replace('order.', 'Order.'), headers);
} catch {
  forged = false;
}
console.log(JSON.stringify({ verified, forged }));
