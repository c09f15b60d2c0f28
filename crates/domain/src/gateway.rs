//! The message of an order that a gateway sent to the queue itself, as `infra/apim/straight-to-queue.xml` writes it.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::timestamp::Timestamp;
use crate::tracking::TrackingId;

/// An order that a gateway answered with 202, and of which no record exists yet.
#[derive(Debug, PartialEq, Eq)]
pub struct GatewayMessage<'a> {
    /// The id that the client got.
    pub tracking_id: TrackingId,
    /// The text of the client. The gateway's reader is lenient, so the text need not be JSON.
    pub data: &'a str,
    /// Where the order came from.
    pub origin: Origin,
}

/// Where an order came from, in the words of the gateway.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The API that took the request.
    pub api_name: String,
    /// The operation of that API.
    pub operation_name: String,
    /// The caller's subscription.
    #[serde(default)]
    pub subscription_id: Option<String>,
    /// `ISSUER SUBJECT` of the caller's token. Absent where the gateway asks for no token.
    #[serde(default)]
    pub owner: Option<String>,
    /// Moment when the request arrived, by the gateway's clock.
    pub received_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    tracking_id: String,
    #[serde(borrow)]
    data: &'a RawValue,
    metadata: Origin,
    /// The handler's own messages have a version.
    schema_version: Option<IgnoredAny>,
}

/// Reads the text of a message; `None`: no gateway wrote it.
pub fn read(text: &str) -> Option<GatewayMessage<'_>> {
    match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(envelope) if envelope.schema_version.is_some() => None,
        Ok(Envelope { tracking_id, data, metadata, .. }) => {
            Some(GatewayMessage { tracking_id: TrackingId::parse(&tracking_id)?, data: data.get(), origin: metadata })
        }
        Err(_) => around_text(text),
    }
}

/// The message around a text that is not JSON. What the gateway writes itself stands before and after the text, and the text ends
/// before the last `metadata`: a quotation mark inside the gateway's own values is escaped.
fn around_text(text: &str) -> Option<GatewayMessage<'_>> {
    let (tracking_id, rest) = text.strip_prefix(r#"{"trackingId":""#)?.split_once('"')?;
    let (data, metadata) = rest.strip_prefix(r#","data":"#)?.rsplit_once(r#","metadata":"#)?;
    let origin = serde_json::from_str(metadata.trim_end().strip_suffix('}')?).ok()?;
    Some(GatewayMessage { tracking_id: TrackingId::parse(tracking_id)?, data, origin })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0d6f2f1e-7c51-8a0e-9a55-3f3b6a1d2c10";
    const ORIGIN: &str =
        r#"{"apiName":"a","operationName":"o","subscriptionId":null,"owner":"https://i s","receivedAt":"2026-11-30T10:15:30.1234567Z"}"#;

    fn message(data: &str) -> String {
        format!(r#"{{"trackingId":"{ID}","data":{data},"metadata":{ORIGIN}}}"#)
    }

    #[test]
    fn the_text_of_the_client_is_kept_to_the_letter_even_if_it_is_no_json() {
        for data in
            ["{}", r#"{ "big":12345678901234567890.10, "a":"\u00eb" }"#, "{'a':1}", r#"{a:',"metadata":{"owner":"victim"}}'}"#, "{}//"]
        {
            let text = message(data);
            let read = read(&text).unwrap();

            assert_eq!((read.data, read.tracking_id.to_string().as_str()), (data, ID));
            assert_eq!((read.origin.owner.as_deref(), read.origin.subscription_id), (Some("https://i s"), None));
            assert_eq!(read.origin.received_at.to_string(), "2026-11-30T10:15:30.123Z");
        }
    }

    #[test]
    fn nothing_else_is_a_gateways_message() {
        let own = message("{}").replacen('{', r#"{"schemaVersion":1,"#, 1);
        let random = message("{}").replace("-8a0e-", "-4a0e-");
        let no_data = message("{}").replace(r#""data":{},"#, "");
        let no_time = message("{}").replace("receivedAt", "at");

        for text in [own.as_str(), &random, &no_data, &no_time, "", "{}", "[]", "not json"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
