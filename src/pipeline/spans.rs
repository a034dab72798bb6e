//! OpenTelemetry spans of events that came in a trace (feature `otlp`): one from an event's arrival to its ack, one for
//! each of what it caused, from the outbox to the confirm.
//!
//! Never here: where they go (whoever starts the service decides), a trace of our own (an event without a trace has no
//! span), and anything of an event but its type: a collector of traces is no place for customers' data. What is
//! published carries the trace context as it came in, since a re-publication must be the same bytes; so all of it stands
//! under the same parent.
//!
//! Without the feature this is nothing: the types are empty, the calls compile to none.

#[cfg(feature = "otlp")]
pub(super) use self::with_otlp::{Received, Sending};
#[cfg(not(feature = "otlp"))]
pub(super) use self::without::{Received, Sending};

#[cfg(not(feature = "otlp"))]
mod without {
    use crate::broker::{Message, Token};
    use crate::pipeline::ingest::Arrival;

    #[derive(Debug, Default)]
    pub struct Received;

    impl Received {
        pub fn begin(&mut self, _: &Arrival) {}
        pub fn end(&mut self, _: Token) {}
    }

    #[derive(Debug)]
    pub struct Sending;

    impl Sending {
        pub fn begin(_: &Message) -> Self {
            Self
        }

        pub fn end(self) {}
    }
}

#[cfg(feature = "otlp")]
mod with_otlp {
    use std::borrow::Cow;
    use std::collections::HashMap;
    use std::time::{Duration, SystemTime};

    use opentelemetry::trace::{
        Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
    };
    use opentelemetry::{Context, KeyValue, global};

    use crate::broker::{Message, Token};
    use crate::model::time::system_now;
    use crate::pipeline::ingest::Arrival;

    /// Spans of deliveries that are not acked yet; the prefetch bounds them.
    #[derive(Debug, Default)]
    pub struct Received(HashMap<Token, global::BoxedSpan>);

    impl Received {
        pub fn begin(&mut self, arrival: &Arrival) {
            let Ok(inbound) = &arrival.decoded else { return };
            let Some(parent) = inbound.event.traceparent.as_deref().and_then(parent) else { return };
            let now_ms = u64::try_from(system_now().as_millisecond()).unwrap_or(0);
            let began = (SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms)).checked_sub(arrival.since.elapsed());
            let event_type = inbound.event.kind.name();
            self.0.insert(arrival.token, span("process", event_type, SpanKind::Consumer, began, &parent));
        }

        /// The delivery is acked.
        pub fn end(&mut self, token: Token) {
            // a connection's deliveries come to nothing when it is lost: their spans end with the next ack
            self.0.retain(|open, _| open.epoch >= token.epoch);
            if let Some(mut span) = self.0.remove(&token) {
                span.end();
            }
        }
    }

    /// The span of a message under way to the broker.
    #[derive(Debug)]
    pub struct Sending(Option<global::BoxedSpan>);

    impl Sending {
        pub fn begin(message: &Message) -> Self {
            let span = traceparent(&message.body).and_then(parent).map(|parent| {
                // <type>.<account>.<organization>
                let event_type = message.routing_key.rsplitn(3, '.').nth(2).unwrap_or("event");
                span("send", event_type, SpanKind::Producer, None, &parent)
            });
            Self(span)
        }

        /// The broker has confirmed it.
        pub fn end(self) {
            if let Some(mut span) = self.0 {
                span.end();
            }
        }
    }

    fn span(operation: &'static str, event_type: &str, kind: SpanKind, began: Option<SystemTime>, parent: &Context) -> global::BoxedSpan {
        let tracer = global::tracer("remedyd");
        let attributes = [
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.type", operation),
            KeyValue::new("cloudevents.event_type", event_type.to_owned()),
        ];
        let name: Cow<'static, str> = format!("{operation} {event_type}").into();
        let mut builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        if let Some(began) = began {
            builder = builder.with_start_time(began);
        }
        builder.start_with_context(&tracer, parent)
    }

    /// `00-<trace>-<span>-<flags>`, which the wire has checked.
    fn parent(traceparent: &str) -> Option<Context> {
        let mut parts = traceparent.split('-').skip(1);
        let trace = TraceId::from_hex(parts.next()?).ok()?;
        let span = SpanId::from_hex(parts.next()?).ok()?;
        let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
        Some(Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::default())))
    }

    /// The attribute of an event as the wire has written it: before `data`, so that no text of a customer can stand in for it.
    fn traceparent(body: &[u8]) -> Option<&str> {
        const KEY: &[u8] = b",\"traceparent\":\"";
        const DATA: &[u8] = b",\"data\":";
        let head = &body[..body.windows(DATA.len()).position(|window| window == DATA)?];
        let value = &head[head.windows(KEY.len()).position(|window| window == KEY)? + KEY.len()..];
        std::str::from_utf8(&value[..value.iter().position(|byte| *byte == b'"')?]).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_context_of_an_event_is_found_in_its_bytes() {
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let with = format!(r#"{{"id":"a","traceparent":"{trace}","data":{{}}}}"#);
            assert_eq!(traceparent(with.as_bytes()), Some(trace));
            for body in ["", r#"{"id":"a","data":{}}"#, r#"{"id":"a","data":{"x":1,"traceparent":"00-1-2-3"}}"#, "rubbish"] {
                assert_eq!(traceparent(body.as_bytes()), None, "{body}");
            }
            let context = parent(trace).unwrap();
            let span = context.span().span_context().clone();
            assert_eq!((span.trace_id().to_string().as_str(), span.span_id().to_string().as_str()), (&trace[3..35], &trace[36..52]));
            assert!(span.is_remote() && span.is_sampled());
        }
    }
}
