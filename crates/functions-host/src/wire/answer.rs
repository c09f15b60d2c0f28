//! Reading of a handler's answer: messages to send and a response for the client (host §4).

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use host_json::newtonsoft::{Json, Way, read};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue};

use crate::wire::newtonsoft::{into_text, is_date, looks_like_json, with_dates, write_compact};

/// Output bindings of the function that answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outputs {
    /// Whether a client waits for a response.
    pub(crate) http_trigger: bool,
    /// Name of the http output, `res` or `$return`.
    pub(crate) http: Option<String>,
    /// The Service Bus outputs in the order of `function.json`.
    pub(crate) messages: Vec<MessageOutput>,
}

/// One Service Bus output binding.
#[derive(Debug, Clone)]
pub(crate) struct MessageOutput {
    /// Name of the binding, case-sensitive.
    pub(crate) name: String,
    /// `dataType: binary`, which stops the host from decoding base64, and no more.
    pub(crate) binary: bool,
}

/// Effect of an answer that the host does not refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The invocation ends.
    Completed(Outcome),
    /// An empty 2xx body or JSON null: the host never completes the invocation, only `functionTimeout` does (host §4.1).
    Hang,
}

/// Actions, in this order: log, send, reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Lines to log under the invocation, at Information.
    pub(crate) logs: Vec<String>,
    /// Bodies to send, each group with the place of its binding in [`Outputs::messages`].
    pub(crate) messages: Vec<(usize, Vec<String>)>,
    /// End of the invocation, after that.
    pub(crate) reply: Reply,
}

/// End of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Success, and no client waits.
    None,
    /// Success, with the response for the client.
    Response(Response),
    /// Failure although [`Outcome::messages`] are sent: a client gets 500 with an empty body, a trigger message is abandoned.
    /// The response has what the host had set before it failed.
    Failed(Refusal, Option<Box<Response>>),
}

/// The response to an HTTP client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// From 200 to 999.
    pub(crate) status: u16,
    /// A valid header value; `None` for no content at all and for decoded bytes.
    pub(crate) content_type: Option<String>,
    /// Other headers, each name once.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, not yet cut for a status that has none.
    pub(crate) body: Vec<u8>,
}

/// Reason why the host fails an invocation: for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Reads a handler's answer by the host's rules.
///
/// An error means that nothing of the answer counts: no log, no message, and a client gets 500 with an empty body.
pub(crate) fn decide(status: u16, content_type: Option<&str>, body: &[u8], outputs: &Outputs) -> Result<Answer, Refusal> {
    if !(200..300).contains(&status) {
        return Err(Refusal(format!("the handler answered with status {status}")));
    }
    // This comes before the content type: without content no type can be wrong.
    if body.is_empty() {
        return Ok(Answer::Hang);
    }
    if !is_json(content_type) {
        return Err(Refusal(format!("the handler's content type is {} instead of application/json", content_type.unwrap_or("missing"))));
    }
    let text = host_json::decode(body);
    if text.trim().is_empty() {
        return Ok(Answer::Hang);
    }
    match read(&text, Way::Deserialize).map(with_dates) {
        Ok(Json::Null | Json::Undefined) => Ok(Answer::Hang),
        Ok(Json::Object(members)) => {
            let envelope = Envelope::read(members)?;
            Ok(Answer::Completed(complete(envelope, outputs)))
        }
        Ok(_) => Err(Refusal("the handler's answer is not a JSON object".to_owned())),
        Err(mistake) => Err(Refusal(format!("the handler's answer is not JSON: {mistake}"))),
    }
}

/// The name that makes an output binding take `ReturnValue`.
const RETURN: &str = "$return";

const TEXT: &str = "text/plain; charset=utf-8";

type Members<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

/// `HttpScriptInvocationResult`: these three names in any case, all else ignored.
#[derive(Default)]
struct Envelope<'a> {
    outputs: Option<Members<'a>>,
    logs: Vec<String>,
    return_value: Option<Json<'a>>,
}

impl<'a> Envelope<'a> {
    fn read(members: Members<'a>) -> Result<Self, Refusal> {
        let mut envelope = Self::default();
        for (name, value) in without_types(members)? {
            if name.eq_ignore_ascii_case("Outputs") {
                envelope.outputs = match value {
                    Json::Null | Json::Undefined => None,
                    Json::Object(outputs) => Some(each_without_types(outputs)?),
                    _ => return Err(Refusal("Outputs is not an object".to_owned())),
                };
            } else if name.eq_ignore_ascii_case("Logs") {
                envelope.logs = logs(value)?;
            } else if name.eq_ignore_ascii_case("ReturnValue") {
                envelope.return_value = match value {
                    Json::Null | Json::Undefined => None,
                    // Its members stand in for outputs, and are read once more for that.
                    Json::Object(members) => Some(Json::Object(each_without_types(members)?)),
                    value => Some(value),
                };
            }
        }
        Ok(envelope)
    }
}

/// Leaves out the `$type` and `$id` at the beginning of an object, which Newtonsoft reads as its own and then does not use
/// (`ReadMetadataProperties`).
fn without_types(mut members: Members) -> Result<Members, Refusal> {
    let own = members.iter().take_while(|(name, _)| matches!(name.as_ref(), "$type" | "$id")).count();
    for (name, value) in members.drain(..own) {
        let is_text = !matches!(value, Json::Null | Json::Undefined | Json::Array(_) | Json::Object(_) | Json::Constructor(..));
        if name == "$type" && !is_text {
            return Err(Refusal("$type at the beginning of an object is no text".to_owned()));
        }
    }
    Ok(members)
}

/// The same for an object and the objects that are its members.
fn each_without_types(members: Members) -> Result<Members, Refusal> {
    let without = |value| match value {
        Json::Object(members) => without_types(members).map(Json::Object),
        other => Ok(other),
    };
    without_types(members)?.into_iter().map(|(name, value)| Ok((name, without(value)?))).collect()
}

fn logs(value: Json) -> Result<Vec<String>, Refusal> {
    let refusal = || Refusal("Logs is not an array of scalars".to_owned());
    match value {
        Json::Null | Json::Undefined => Ok(Vec::new()),
        Json::Array(lines) => lines
            .into_iter()
            .map(|line| match line {
                Json::Array(_) | Json::Object(_) | Json::Constructor(..) => Err(refusal()),
                // A date among them is a text here, since `Logs` is a list of strings to the reader.
                Json::Text(line) => Ok(line.into_owned()),
                scalar => Ok(body(scalar)),
            })
            .collect(),
        _ => Err(refusal()),
    }
}

/// Follows `ToScriptInvocationResult`, then `WorkerFunctionInvoker.BindOutputsAsync`.
fn complete(mut envelope: Envelope, outputs: &Outputs) -> Outcome {
    let http = outputs.http.as_deref();
    // `res` is read before any output is bound, so a bad one means that nothing is sent.
    let res = match (http, &mut envelope.outputs) {
        (Some(name), Some(values)) if name != RETURN => match take(values, name) {
            Some(value) => match res(value) {
                Ok(reply) => Some(reply),
                Err(reason) => {
                    return Outcome {
                        logs: envelope.logs,
                        messages: Vec::new(),
                        reply: Reply::Failed(Refusal(format!("the output '{name}' {reason}")), None),
                    };
                }
            },
            // A response object without members is its own body.
            None => Some(response(200, b"{}".to_vec(), None)),
        },
        _ => None,
    };

    let has_return = http == Some(RETURN) || outputs.messages.iter().any(|output| output.name == RETURN);
    let mut values = envelope.outputs.unwrap_or_default();
    let mut return_value = envelope.return_value;
    // Without an output named $return the members of a ReturnValue stand in for outputs of their name.
    let mut merged = match &return_value {
        Some(Json::Object(members)) if !has_return => members.clone(),
        _ => Members::new(),
    };

    let mut failure = None;
    let mut messages = Vec::new();
    for (place, output) in outputs.messages.iter().enumerate() {
        let bodies = if output.name == RETURN {
            bodies(return_value.take().unwrap_or(Json::Null), !output.binary)
        } else if let Some(value) = take(&mut merged, &output.name) {
            bodies(value, false)
        } else {
            let value = take(&mut values, &output.name).unwrap_or(Json::Null);
            bodies(value, !output.binary)
        };
        match bodies {
            Ok(bodies) if bodies.is_empty() => {}
            Ok(bodies) => messages.push((place, bodies)),
            // The other outputs are being sent at the same time (`Task.WhenAll`).
            Err(reason) => {
                failure.get_or_insert(Refusal(format!("the output '{}' {reason}", output.name)));
            }
        }
    }

    let reply = if let Some(refusal) = failure {
        Reply::Failed(refusal, None)
    } else if !outputs.http_trigger {
        Reply::None
    } else if http == Some(RETURN) {
        return_value.map_or_else(|| unbound(None), |value| sniffed(value, true))
    } else {
        match http.and_then(|name| take(&mut merged, name)) {
            Some(Json::Null | Json::Undefined) => unbound(return_value),
            Some(value) => sniffed(value, false),
            None => res.unwrap_or_else(|| unbound(return_value)),
        }
    };
    Outcome { logs: envelope.logs, messages, reply }
}

/// The messages of a Service Bus output value (host §4.4).
fn bodies(value: Json, decode: bool) -> Result<Vec<String>, String> {
    match value {
        Json::Null | Json::Undefined => Ok(Vec::new()),
        Json::Array(items) => Ok(items.into_iter().map(body).collect()),
        Json::Text(text) if is_date(&text) => Ok(vec![body(Json::Text(text))]),
        Json::Text(text) => {
            if let Some(bytes) = decode.then(|| base64_bytes(&text)).flatten() {
                return Ok(vec![String::from_utf8_lossy(&bytes).into_owned()]);
            }
            if !looks_like_json(&text) {
                return Ok(vec![text.into_owned()]);
            }
            match read(text.trim(), Way::Parse) {
                Ok(Json::Array(items)) => Ok(items.into_iter().map(body).collect()),
                Ok(value) => Ok(vec![body(value)]),
                Err(reason) => Err(format!("looks like JSON but is not: {reason}")),
            }
        }
        value => Ok(vec![body(value)]),
    }
}

/// A null among messages is an empty message.
fn body(value: Json) -> String {
    into_text(value).map_or_else(String::new, Cow::into_owned)
}

/// Reads `Outputs.res`: an object, or a string with one inside (`GetHttpOutputBindingResponse`).
fn res(value: Json) -> Result<Reply, String> {
    match value {
        Json::Object(members) => res_members(members),
        Json::Text(text) => match read(&text, Way::Parse) {
            Ok(Json::Object(members)) => res_members(members),
            _ => Err("is a string that holds no JSON object".to_owned()),
        },
        _ => Err("is not an object".to_owned()),
    }
}

/// `status` is read and then never used, because the `StatusCode` beside it is always there, if only as null.
fn res_members(members: Members) -> Result<Reply, String> {
    let mut status = 200;
    let mut content = Json::Null;
    let mut headers = None;
    for (name, value) in members {
        if name.eq_ignore_ascii_case("statusCode") {
            status = match value {
                Json::Text(text) => whole_number(&text),
                Json::Integer(digits) => whole_number(&digits),
                Json::Null | Json::Undefined | Json::Bool(_) | Json::Double(_) => None,
                _ => return Err("has a statusCode that is not a scalar".to_owned()),
            }
            .unwrap_or(200);
        } else if name.eq_ignore_ascii_case("status") {
            if matches!(value, Json::Array(_) | Json::Object(_)) {
                return Err("has a status that is not a scalar".to_owned());
            }
        } else if name.eq_ignore_ascii_case("body") {
            content = match value {
                Json::Object(members) => Json::Object(without_types(members).map_err(|refusal| refusal.0)?),
                value => value,
            };
        } else if name.eq_ignore_ascii_case("headers") {
            headers = match value {
                Json::Null | Json::Undefined => None,
                Json::Object(headers) => Some(each_without_types(headers).map_err(|refusal| refusal.0)?),
                _ => return Err("has headers that are not an object".to_owned()),
            };
        }
    }
    Ok(response(status, body(content).into_bytes(), headers))
}

/// Reads a value that is not `Outputs.res` but may be a response all the same: it is one if it has a body (`HttpBinding.CreateResult`).
fn sniffed(value: Json, decode: bool) -> Reply {
    match value {
        Json::Object(members) => sniffed_members(members),
        Json::Text(text) => {
            if let Some(bytes) = decode.then(|| base64_bytes(&text)).flatten() {
                // Bytes are written without a content type (`ByteArrayOutputFormatter`).
                return Reply::Response(Response { status: 200, content_type: None, headers: Vec::new(), body: bytes });
            }
            match read(&text, Way::Parse) {
                Ok(Json::Object(members)) => sniffed_members(members),
                Ok(value) => response(200, body(value).into_bytes(), None),
                Err(_) => response(200, body(Json::Text(text)).into_bytes(), None),
            }
        }
        value => response(200, body(value).into_bytes(), None),
    }
}

fn sniffed_members(mut members: Members) -> Reply {
    let Some(content) = take_in_any_case(&mut members, "body") else {
        return response(200, body(Json::Object(members)).into_bytes(), None);
    };
    let status = match take_in_any_case(&mut members, "statusCode").or_else(|| take_in_any_case(&mut members, "status")) {
        Some(Json::Text(text)) => whole_number(&text).unwrap_or(200),
        // A number with a point is no integer type and is passed over; one too large for `int` is an exception.
        Some(Json::Integer(digits)) => whole_number(&digits).unwrap_or(i32::MAX),
        _ => 200,
    };
    let headers = match take_in_any_case(&mut members, "headers") {
        Some(Json::Object(headers)) => Some(headers.into_iter().map(|(name, value)| (name, expando(value))).collect()),
        _ => None,
    };
    let content = match content {
        // An `ExpandoObject` is written without white space, unlike the `JObject` of `Outputs.res`.
        object @ Json::Object(_) => {
            let mut text = String::new();
            write_compact(&mut text, &object);
            text
        }
        other => body(expando(other)),
    };
    response(status, content.into_bytes(), headers)
}

/// Inside an `ExpandoObject` containers are .NET objects, whose text is the name of their type.
fn expando(value: Json) -> Json {
    match value {
        Json::Array(_) => Json::Text("System.Collections.Generic.List`1[System.Object]".into()),
        Json::Object(_) => Json::Text("System.Dynamic.ExpandoObject".into()),
        other => other,
    }
}

/// The response when no http output was given a value: MVC writes the return value (`HttpBinding.SetResponse`).
fn unbound(return_value: Option<Json>) -> Reply {
    let Some(value) = return_value else {
        return Reply::Response(Response { status: 204, content_type: None, headers: Vec::new(), body: Vec::new() });
    };
    let (content_type, body) = match value {
        Json::Text(text) if !is_date(&text) => (TEXT, text.into_owned()),
        other => {
            let mut text = String::new();
            write_compact(&mut text, &other);
            ("application/json; charset=utf-8", text)
        }
    };
    Reply::Response(Response { status: 200, content_type: Some(content_type.to_owned()), headers: Vec::new(), body: body.into_bytes() })
}

/// Writes the response as `RawScriptResult` does, which is after the outputs were sent. A header that cannot be written makes it a 500
/// with the headers before it.
fn response(status: i32, body: Vec<u8>, headers: Option<Members>) -> Reply {
    let mut response = Response { status: 500, content_type: None, headers: Vec::new(), body: Vec::new() };
    let failed = |reason, begun| Reply::Failed(Refusal(reason), begun);
    let Some(known) = u16::try_from(status).ok().filter(|status| (200..1000).contains(status)) else {
        return failed(format!("{status} is not a status code for a response"), None);
    };
    for (name, value) in headers.into_iter().flatten() {
        if let Err(reason) = set_header(&mut response, &name, value, body.len()) {
            return failed(reason, Some(Box::new(response)));
        }
    }
    response.content_type = Some(match response.content_type {
        Some(content_type) => with_charset(content_type),
        None => TEXT.to_owned(),
    });
    Reply::Response(Response { status: known, body, ..response })
}

fn set_header(response: &mut Response, name: &str, value: Json, length: usize) -> Result<(), String> {
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("'{}' is not a header name", name.escape_debug()))?;
    // The first of a name stays, but a content type is set, not added.
    if header != CONTENT_TYPE && response.headers.iter().any(|(other, _)| *other == header) {
        return Ok(());
    }
    let value = into_text(value).ok_or_else(|| format!("the response header '{name}' is null"))?;
    let valid = HeaderValue::from_str(&value)
        .ok()
        // Kestrel allows less than the `http` crate does.
        .filter(|_| value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')))
        .ok_or_else(|| format!("the response header '{name}' has characters a header cannot have"))?;
    if header == CONTENT_TYPE {
        response.content_type = Some(value.into_owned()).filter(|value| !value.is_empty());
        return Ok(());
    }
    if header == TRANSFER_ENCODING {
        return Err("a Transfer-Encoding header makes the host's client hang".to_owned());
    }
    if header == CONTENT_LENGTH && value.trim().parse() != Ok(length) {
        return Err(format!("the Content-Length header does not match the {length} bytes of the body"));
    }
    response.headers.push((header, valid));
    Ok(())
}

/// MVC's text formatter names the encoding it writes, in place of another one if need be.
fn with_charset(content_type: String) -> String {
    let mut at = 0;
    for part in content_type.split(';') {
        if let Some((name, value)) = part.split_once('=')
            && name.trim().eq_ignore_ascii_case("charset")
        {
            if value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
                return content_type;
            }
            let from = at + name.len() + 1;
            let to = at + part.len();
            return format!("{}utf-8{}", &content_type[..from], &content_type[to..]);
        }
        at += part.len() + 1;
    }
    content_type + "; charset=utf-8"
}

fn is_json(content_type: Option<&str>) -> bool {
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    ["application/json", "text/json"].iter().any(|json| json.eq_ignore_ascii_case(media_type))
}

/// `Convert.FromBase64String`: white space does not count, padding does, and unused bits may be anything.
fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    let is_space = |character: char| matches!(character, ' ' | '\t' | '\r' | '\n');
    if text.contains(is_space) { ENGINE.decode(text.replace(is_space, "")).ok() } else { ENGINE.decode(text).ok() }
}

/// `int.TryParse` with `NumberStyles.Integer`.
fn whole_number(text: &str) -> Option<i32> {
    text.trim().parse().ok()
}

fn take<'a>(members: &mut Members<'a>, name: &str) -> Option<Json<'a>> {
    let place = members.iter().position(|(other, _)| other == name)?;
    Some(members.swap_remove(place).1)
}

/// The exact name first, then the first in another case.
fn take_in_any_case<'a>(members: &mut Members<'a>, name: &str) -> Option<Json<'a>> {
    let place = members
        .iter()
        .position(|(other, _)| other == name)
        .or_else(|| members.iter().position(|(other, _)| other.eq_ignore_ascii_case(name)))?;
    Some(members.remove(place).1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn create_order() -> Outputs {
        Outputs {
            http_trigger: true,
            http: Some("res".to_owned()),
            messages: vec![MessageOutput { name: "orderMessage".to_owned(), binary: false }],
        }
    }

    fn outcome(body: &str, outputs: &Outputs) -> Outcome {
        match decide(200, Some("application/json"), body.as_bytes(), outputs) {
            Ok(Answer::Completed(outcome)) => outcome,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn replied(body: &str, outputs: &Outputs) -> Response {
        match outcome(body, outputs).reply {
            Reply::Response(response) => response,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn res(members: &str) -> Reply {
        outcome(&format!("{{\"Outputs\":{{\"res\":{members}}}}}"), &create_order()).reply
    }

    fn res_text(members: &str) -> String {
        match res(members) {
            Reply::Response(response) => String::from_utf8(response.body).unwrap(),
            other => panic!("{members}: {other:?}"),
        }
    }

    fn sent(value: &str) -> Vec<String> {
        let body = format!("{{\"Outputs\":{{\"orderMessage\":{value}}}}}");
        outcome(&body, &create_order()).messages.into_iter().flat_map(|(_, bodies)| bodies).collect()
    }

    /// Outcome as seen from outside, in the form of the fixture.
    fn seen(result: Result<Answer, Refusal>) -> (Value, Vec<String>) {
        let failed = || json!({"status": 500, "contentType": null, "body": ""});
        match result {
            Err(_) | Ok(Answer::Hang) => (failed(), Vec::new()),
            Ok(Answer::Completed(outcome)) => {
                let client = match outcome.reply {
                    Reply::Response(response) => {
                        let mut client = json!({
                            "status": response.status,
                            "contentType": response.content_type,
                            "body": String::from_utf8(response.body).unwrap(),
                        });
                        for (name, value) in response.headers {
                            client["headers"][name.as_str()] = value.to_str().unwrap().into();
                        }
                        client
                    }
                    Reply::Failed(..) => failed(),
                    Reply::None => Value::Null,
                };
                let messages = outcome.messages.into_iter().flat_map(|(_, bodies)| bodies);
                (client, messages.collect())
            }
        }
    }

    #[test]
    fn every_response_case_has_the_effect_the_real_host_showed() {
        let path = format!("{}/../../tests/fixtures/host/response-cases.json", env!("CARGO_MANIFEST_DIR"));
        let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = cases["cases"].as_array().unwrap();
        assert!(cases.len() >= 24);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let answer = &case["handlerResponse"];
            let process_order = case["function"].as_str().unwrap().starts_with("process-order");
            let outputs = if process_order { Outputs::default() } else { create_order() };

            let result = decide(
                answer["status"].as_u64().unwrap().try_into().unwrap(),
                answer["contentType"].as_str(),
                answer["body"].as_str().unwrap().as_bytes(),
                &outputs,
            );

            if process_order {
                let expected = case["triggerOutcome"].as_str().unwrap();
                let outcome = match &result {
                    Ok(Answer::Completed(outcome)) if outcome.reply == Reply::None => "completed",
                    Ok(Answer::Hang) => "never completes",
                    _ => "abandoned",
                };
                assert!(expected.starts_with(outcome), "{name}: {result:?}");
                continue;
            }
            assert_eq!(result == Ok(Answer::Hang), case["note"].is_string(), "{name}");
            let (mut client, messages) = seen(result);
            if case["client"]["headers"].is_null() {
                client.as_object_mut().unwrap().remove("headers");
            }
            assert_eq!(client, case["client"], "{name}");
            assert_eq!(json!(messages), case["serviceBusMessageBodies"], "{name}");
        }
    }

    #[test]
    fn the_order_fixture_sends_its_message_and_replies() {
        let path = format!("{}/../../tests/fixtures/host/http-trigger-order-post.response.json", env!("CARGO_MANIFEST_DIR"));
        let body = std::fs::read_to_string(path).unwrap();
        let envelope: Value = serde_json::from_str(&body).unwrap();

        let outcome = outcome(&body, &create_order());

        let expected = envelope["Outputs"]["orderMessage"][0].as_str().unwrap();
        assert_eq!(outcome.messages, [(0, vec![expected.to_owned()])]);
        assert!(matches!(outcome.reply, Reply::Response(Response { status: 202, .. })));
    }

    #[test]
    fn an_empty_body_or_null_hangs_whatever_its_type() {
        for (content_type, body) in
            [(None, ""), (Some("text/plain"), ""), (Some("application/json"), " \n"), (Some("application/json"), "null")]
        {
            let answer = decide(200, content_type, body.as_bytes(), &create_order());
            assert_eq!(answer, Ok(Answer::Hang));
        }
    }

    #[test]
    fn only_two_media_types_are_json() {
        let decided = |content_type| decide(200, Some(content_type), b"{}", &create_order());

        assert!(decided("text/JSON; charset=utf-8").is_ok());
        assert!(decided("application/problem+json").is_err());
        assert!(decided("application/json5").is_err());
    }

    #[test]
    fn envelope_names_have_any_case_and_output_names_do_not() {
        let body = r#"{"oUTPUTS":{"Res":{"body":"no"},"orderMessage":["m"]},"LOGS":["a","2026-11-23T10:15:30Z"]}"#;

        let outcome = outcome(body, &create_order());

        assert_eq!(outcome.logs, ["a", "2026-11-23T10:15:30Z"]);
        assert_eq!(outcome.messages, [(0, vec!["m".to_owned()])]);
        assert_eq!(replied(body, &create_order()).body, b"{}");
    }

    #[test]
    fn an_envelope_of_the_wrong_shape_is_refused() {
        for body in [r#"{"Outputs":[]}"#, r#"{"Outputs":"x"}"#, r#"{"Logs":"x"}"#, r#"{"Logs":[{}]}"#, r#"{"Logs":[[]]}"#, "{", "5"] {
            let answer = decide(200, Some("application/json"), body.as_bytes(), &create_order());
            assert!(answer.is_err(), "{body}");
        }
    }

    #[test]
    fn a_bad_res_keeps_the_logs_and_sends_nothing() {
        for bad in ["null", "5", "[]", "\"x\"", "\"null\"", "{\"headers\":[]}", "{\"statusCode\":{}}"] {
            let body = format!("{{\"Logs\":[\"l\"],\"Outputs\":{{\"res\":{bad},\"orderMessage\":[\"m\"]}}}}");

            let outcome = outcome(&body, &create_order());

            assert_eq!(outcome.logs, ["l"]);
            assert!(outcome.messages.is_empty());
            assert!(matches!(outcome.reply, Reply::Failed(..)), "{bad}");
        }
    }

    #[test]
    fn a_status_code_is_an_integer_or_200() {
        for (code, status) in [("201", 201), ("\" +202 \"", 202), ("202.0", 200), ("true", 200), ("null", 200), ("\"x\"", 200)] {
            let reply = res(&format!("{{\"STATUSCODE\":{code}}}"));
            assert!(matches!(reply, Reply::Response(response) if response.status == status), "{code}");
        }
        for code in ["99", "1000", "-1", "65736"] {
            assert!(matches!(res(&format!("{{\"statusCode\":{code}}}")), Reply::Failed(..)));
        }
    }

    #[test]
    fn a_body_is_rendered_by_its_type() {
        for (body, text) in [
            ("null", ""),
            ("\"{\\\"a\\\":1.0}\"", "{\"a\":1.0}"),
            ("[]", "[]"),
            ("{}", "{}"),
            ("1.10", "1.1"),
            ("2.0", "2"),
            ("false", "False"),
            ("\"2026-11-23T10:15:30.000Z\"", "11/23/2026 10:15:30"),
            (
                "{\"at\":\"2026-11-23T10:15:30.120+02:00\",\"n\":[2.0]}",
                "{\n  \"at\": \"2026-11-23T08:15:30.12+00:00\",\n  \"n\": [\n    2.0\n  ]\n}",
            ),
        ] {
            assert_eq!(res_text(&format!("{{\"body\":{body}}}")), text);
        }
    }

    #[test]
    fn a_header_the_server_cannot_write_fails_after_the_messages_were_sent() {
        for headers in [
            r#"{"X-A":null}"#,
            r#"{"X-A":[1,2]}"#,
            r#"{"X-A":"a\r\nb"}"#,
            r#"{"X-A":"é"}"#,
            r#"{"X A":"a"}"#,
            r#"{"":"a"}"#,
            r#"{"Content-Type":null}"#,
            r#"{"Content-Type":"é"}"#,
            r#"{"Content-Length":"2"}"#,
            r#"{"Transfer-Encoding":"chunked"}"#,
        ] {
            let body = format!("{{\"Outputs\":{{\"res\":{{\"body\":\"x\",\"headers\":{headers}}},\"orderMessage\":[\"m\"]}}}}");

            let outcome = outcome(&body, &create_order());

            assert_eq!(outcome.messages, [(0, vec!["m".to_owned()])]);
            assert!(matches!(outcome.reply, Reply::Failed(..)), "{headers}");
        }
    }

    #[test]
    fn headers_are_text_and_the_first_of_a_name_stays() {
        let Reply::Response(response) = res(r#"{"headers":{"X-A":1.50,"x-a":"two","X-B":true,"X-C":{},"Content-Type":"","X-D":""}}"#)
        else {
            panic!("no response")
        };
        let headers: Vec<(&str, &str)> = response.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();

        assert_eq!(headers, [("x-a", "1.5"), ("x-b", "True"), ("x-c", "{}"), ("x-d", "")]);
        assert_eq!(response.content_type.as_deref(), Some(TEXT));
    }

    #[test]
    fn a_type_at_the_beginning_of_an_object_is_left_out() {
        assert_eq!(sent(r#"{"$type":"x","a":{"$type":1}}"#), ["{\n  \"a\": {\n    \"$type\": 1\n  }\n}"]);
        assert_eq!(sent(r#"{"a":1,"$type":{}}"#), ["{\n  \"a\": 1,\n  \"$type\": {}\n}"]);
        assert_eq!(res_text(r#"{"body":{"$type":true,"$id":{},"a":1}}"#), "{\n  \"a\": 1\n}");
        assert!(matches!(res(r#"{"body":{"$type":{},"a":1}}"#), Reply::Failed(..)));
        for refused in [r#"{"$type":{}}"#, r#"{"Outputs":{"res":{"$type":null}}}"#, r#"{"ReturnValue":{"a":{"$type":[1]}}}"#] {
            assert!(decide(200, Some("application/json"), refused.as_bytes(), &create_order()).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_failed_response_has_the_headers_before_the_failure() {
        let Reply::Failed(_, Some(begun)) = res(r#"{"body":"x","headers":{"X-A":"1","Content-Type":"a/b","X B":"","X-C":"2"}}"#) else {
            panic!("no failure")
        };
        assert_eq!((begun.status, begun.content_type.as_deref(), begun.headers.len()), (500, Some("a/b"), 1));
        assert!(begun.body.is_empty());
    }

    #[test]
    fn the_charset_is_always_utf_8() {
        for (sent, written) in [
            ("text/html", "text/html; charset=utf-8"),
            ("text/html;Charset=UTF-8", "text/html;Charset=UTF-8"),
            ("text/html; charset=latin1; a=b", "text/html; charset=utf-8; a=b"),
        ] {
            assert_eq!(with_charset(sent.to_owned()), written);
        }
    }

    #[test]
    fn a_json_looking_string_is_reindented() {
        assert_eq!(sent(r#"" {\"a\":[]} ""#), ["{\n  \"a\": []\n}"]);
        assert_eq!(sent(r#""[1.10,null,\"x\",[1]]""#), ["1.1", "", "x", "[\n  1\n]"]);
        assert_eq!(sent(r#""{x]""#), ["{x]"]);
    }

    #[test]
    fn scalars_are_sent_as_dotnet_text() {
        assert_eq!(sent("true"), ["True"]);
        assert_eq!(sent("1.0"), ["1"]);
        assert_eq!(sent("12345678901234567890123"), ["12345678901234567890123"]);
        assert_eq!(sent("\"2026-11-23T10:15:30.5Z\""), ["11/23/2026 10:15:30"]);
        assert_eq!(sent("[\"2026-11-23T10:15:30.5Z\"]"), ["11/23/2026 10:15:30"]);
    }

    #[test]
    fn base64_is_decoded_unless_it_is_binary_or_in_an_array() {
        let mut binary = create_order();
        binary.messages[0].binary = true;
        let body = r#"{"Outputs":{"orderMessage":"abcd"}}"#;

        assert_eq!(outcome(body, &binary).messages, [(0, vec!["abcd".to_owned()])]);
        assert_eq!(sent("\"eyJh\\nIjox fQ==\""), ["{\"a\":1}"]);
        assert_eq!(sent("\"aGk=\""), ["hi"]);
        assert_eq!(sent("\"aGl=\""), ["hi"]);
        assert_eq!(sent("\"aGk\""), ["aGk"]);
        assert_eq!(sent("[\"aGk=\"]"), ["aGk="]);
    }

    #[test]
    fn one_malformed_output_fails_but_the_others_are_sent() {
        let mut outputs = create_order();
        outputs.messages.push(MessageOutput { name: "audit".to_owned(), binary: false });
        let body = r#"{"Outputs":{"orderMessage":"{not json}","audit":["a","b"],"res":{}}}"#;

        let outcome = outcome(body, &outputs);

        assert_eq!(outcome.messages, [(1, vec!["a".to_owned(), "b".to_owned()])]);
        assert!(matches!(outcome.reply, Reply::Failed(Refusal(reason), None) if reason.contains("orderMessage")));
    }

    #[test]
    fn a_return_value_object_stands_in_for_outputs() {
        let body = r#"{"ReturnValue":{"res":{"status":201,"body":{"a":1}},"orderMessage":"abcd"},"Outputs":{"orderMessage":"x","res":{}}}"#;

        let outcome = outcome(body, &create_order());
        let response = replied(body, &create_order());

        assert_eq!(outcome.messages, [(0, vec!["abcd".to_owned()])]);
        assert_eq!((response.status, response.body.as_slice()), (201, &b"{\"a\":1}"[..]));
    }

    #[test]
    fn a_return_value_without_outputs_is_the_response() {
        let reply = |value: &str| {
            let response = replied(&format!("{{\"ReturnValue\":{value}}}"), &create_order());
            (response.content_type.unwrap(), String::from_utf8(response.body).unwrap())
        };

        assert_eq!(reply("\"hello\""), (TEXT.to_owned(), "hello".to_owned()));
        assert_eq!(reply("{\"a\": [1]}"), ("application/json; charset=utf-8".to_owned(), "{\"a\":[1]}".to_owned()));
    }

    #[test]
    fn an_http_output_named_return_takes_the_return_value() {
        let outputs = Outputs { http: Some(RETURN.to_owned()), ..create_order() };
        for (value, status, text) in [
            ("\"hello\"", 200, "hello"),
            ("\"abcd\"", 200, "i\u{fffd}\u{1d}"),
            (r#"{"statusCode":"201","body":"x","headers":{"X":"y"}}"#, 201, "x"),
            (r#"{"STATUS":202,"Body":{"a":[1]}}"#, 202, "{\"a\":[1]}"),
            (r#"{"a":1}"#, 200, "{\n  \"a\": 1\n}"),
            (r#""{\"body\":12.50}""#, 200, "12.5"),
            (r#"{"body":[1]}"#, 200, "System.Collections.Generic.List`1[System.Object]"),
            ("null", 204, ""),
        ] {
            let response = replied(&format!("{{\"Outputs\":{{}},\"ReturnValue\":{value}}}"), &outputs);

            assert_eq!(response.status, status, "{value}");
            assert_eq!(String::from_utf8_lossy(&response.body), text, "{value}");
        }
    }

    #[test]
    fn a_message_output_named_return_takes_the_return_value() {
        let outputs = Outputs { messages: vec![MessageOutput { name: RETURN.to_owned(), binary: false }], ..Outputs::default() };

        let outcome = outcome(r#"{"Outputs":{"$return":"no"},"ReturnValue":["a"]}"#, &outputs);

        assert_eq!(outcome.messages, [(0, vec!["a".to_owned()])]);
        assert_eq!(outcome.reply, Reply::None);
    }

    #[test]
    fn hostile_answers_are_read_as_they_are() {
        assert_eq!(
            sent(r#"{"$serde_json::private::RawValue":"[[","$serde_json::private::Number":"1"}"#),
            ["{\n  \"$serde_json::private::RawValue\": \"[[\",\n  \"$serde_json::private::Number\": \"1\"\n}"]
        );
        assert_eq!(sent(r#"["\ud800"]"#), ["\u{fffd}"]);
        let invalid = decide(200, Some("application/json"), b"{\"Outputs\":{\"orderMessage\":[\"a\xffb\"]}}", &create_order());
        assert!(matches!(invalid, Ok(Answer::Completed(outcome)) if outcome.messages[0].1 == ["a\u{fffd}b"]));
        for deep in ["[".repeat(1_000_000), "{\"Outputs\":".repeat(100_000)] {
            assert!(decide(200, Some("application/json"), deep.as_bytes(), &create_order()).is_err());
        }
    }
}
