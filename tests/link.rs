//! The conformance suite of the broker port: every test of it runs over the memory link and over RabbitMQ.
//!
//! Never here: a sleep in place of a signal. Where something must *not* happen, a later event over the same
//! connection shows that it had its chance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use futures_util::FutureExt;
use futures_util::future::join_all;
use remedyd::broker::topology::Topology;
use remedyd::broker::{Lane, Link, LinkState, Message, PublishError, Settlement};
use support::{InMemory, Place, next, number, ready, report, survey, within};

macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::InMemory::new()).await;
            })*
        }

        mod rabbitmq {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let place = super::support::rabbit::Rabbit::new(stringify!($test)).await;
                super::$test(&place).await;
                place.clean().await;
            })*
        }
    };
}

conformance!(
    deliveries_keep_their_order_in_their_lane,
    no_more_than_the_prefetch_is_out,
    what_is_requeued_comes_again,
    what_was_not_acked_comes_again_after_a_loss,
    acks_in_any_order_ack_what_they_name,
    publications_arrive_in_order,
    every_message_gets_its_own_verdict,
    status_without_a_consumer_is_kept,
    publishing_goes_on_after_losses,
    what_names_an_epoch_does_not_outlive_it,
    stopping_lets_settle_what_is_out,
    a_second_link_waits_for_the_first,
);

/// A message for the dead-letters queue whose body is `number`.
fn dead_letter(topology: &Topology, number: usize) -> Message {
    to_queue(&topology.dead_letters(), number)
}

fn to_queue(queue: &str, number: usize) -> Message {
    Message {
        routing_key: queue.to_owned(),
        message_id: Some(format!("m-{number}")),
        body: number.to_string().into_bytes(),
        ..Message::default()
    }
}

async fn deliveries_keep_their_order_in_their_lane(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(7).await;
    for n in 0..50 {
        place.publish(report(&topology, n)).await;
        place.publish(survey(&topology, 1_000 + n)).await;
    }
    for n in 0..50 {
        for (lane, expected) in [(Lane::Reports, n), (Lane::Surveys, 1_000 + n)] {
            let delivery = next(&link, lane).await;
            assert_eq!(number(&delivery.message), expected);
            assert_eq!(delivery.token.lane, lane);
            assert!(!delivery.redelivered);
            link.settle(delivery.token, Settlement::Ack);
        }
    }
    link.close().await;
}

async fn no_more_than_the_prefetch_is_out(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(2).await;
    for n in 0..4 {
        place.publish(report(&topology, n)).await;
    }
    let first = next(&link, Lane::Reports).await;
    let second = next(&link, Lane::Reports).await;
    // A delivery of the other lane, published after the four, over the same connection.
    place.publish(survey(&topology, 9)).await;
    let other = next(&link, Lane::Surveys).await;
    link.settle(other.token, Settlement::Ack);
    assert!(link.next(Lane::Reports).now_or_never().is_none());
    link.settle(first.token, Settlement::Ack);
    assert_eq!(number(&next(&link, Lane::Reports).await.message), 2);
    link.settle(second.token, Settlement::Ack);
    assert_eq!(number(&next(&link, Lane::Reports).await.message), 3);
    link.close().await;
}

async fn what_is_requeued_comes_again(place: &impl Place) {
    let link = place.link(1).await;
    place.publish(report(place.topology(), 0)).await;
    let first = next(&link, Lane::Reports).await;
    assert!(!first.redelivered);
    link.settle(first.token, Settlement::Requeue);
    let again = next(&link, Lane::Reports).await;
    assert_eq!((number(&again.message), again.redelivered), (0, true));
    assert_ne!(again.token, first.token);
    link.settle(again.token, Settlement::Ack);
    link.close().await;
}

async fn what_was_not_acked_comes_again_after_a_loss(place: &impl Place) {
    let link = place.link(3).await;
    let epoch = ready(&link, 0).await;
    for n in 0..4 {
        place.publish(report(place.topology(), n)).await;
    }
    let acked = next(&link, Lane::Reports).await;
    assert_eq!(number(&acked.message), 0);
    link.settle(acked.token, Settlement::Ack);
    // The fourth comes only once the broker has the ack.
    let mut stale = Vec::new();
    for expected in 1..4 {
        let delivery = next(&link, Lane::Reports).await;
        assert_eq!(number(&delivery.message), expected);
        stale.push(delivery.token);
    }
    for epoch in [epoch, epoch + 1] {
        place.cut().await;
        ready(&link, epoch).await;
        let mut numbers = Vec::new();
        let mut tokens = Vec::new();
        for _ in 1..4 {
            let delivery = next(&link, Lane::Reports).await;
            assert!(delivery.redelivered);
            assert!(delivery.token.epoch > epoch);
            numbers.push(number(&delivery.message));
            tokens.push(delivery.token);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3]);
        // These name deliveries of a connection that is no more: after the next loss all come again.
        for token in std::mem::replace(&mut stale, tokens) {
            link.settle(token, Settlement::Ack);
        }
    }
    for token in stale {
        link.settle(token, Settlement::Ack);
    }
    link.close().await;
    // Closing has sent the acks: the next one to be seen is a new message.
    let link = place.link(1).await;
    place.publish(report(place.topology(), 4)).await;
    assert_eq!(number(&next(&link, Lane::Reports).await.message), 4);
    link.close().await;
}

async fn acks_in_any_order_ack_what_they_name(place: &impl Place) {
    let link = place.link(10).await;
    for n in 0..10 {
        place.publish(report(place.topology(), n)).await;
    }
    let mut tokens = Vec::new();
    for _ in 0..10 {
        tokens.push(next(&link, Lane::Reports).await.token);
    }
    for n in [9, 1, 0, 4, 3, 7] {
        link.settle(tokens[n], Settlement::Ack);
    }
    link.close().await;
    let link = place.link(10).await;
    let mut left = Vec::new();
    for _ in 0..4 {
        let delivery = next(&link, Lane::Reports).await;
        assert!(delivery.redelivered);
        left.push(number(&delivery.message));
    }
    left.sort_unstable();
    assert_eq!(left, [2, 5, 6, 8]);
    link.close().await;
}

/// To an exchange; without a subscriber it arrives in the queue for those.
fn status(topology: &Topology, number: usize) -> Message {
    Message { exchange: topology.status(), ..to_queue("incident_report.triaged.5.4", number) }
}

async fn publications_arrive_in_order(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    for n in 0..20 {
        for message in [dead_letter(&topology, n), status(&topology, n)] {
            within("a confirm", link.publish(message)).await.expect("confirmed");
        }
    }
    // Many at a time: in the order in which they are first polled.
    let published =
        join_all((20..400).flat_map(|n| [dead_letter(&topology, n), status(&topology, n)].map(|message| link.publish(message))));
    for verdict in within("confirms", published).await {
        verdict.expect("confirmed");
    }
    for queue in [topology.dead_letters(), topology.unrouted()] {
        assert_eq!(place.contents(&queue, 400).await, (0..400).collect::<Vec<_>>(), "{queue}");
    }
    link.close().await;
}

async fn every_message_gets_its_own_verdict(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    let nowhere = format!("{}.nowhere", topology.prefix());
    let published = join_all((0..300).map(|n| {
        link.publish(match n % 3 {
            0 => to_queue(&nowhere, n),
            1 => status(&topology, n),
            _ => dead_letter(&topology, n),
        })
    }));
    for (n, verdict) in within("verdicts", published).await.into_iter().enumerate() {
        if n % 3 != 0 {
            assert_eq!(verdict, Ok(()), "{n}");
        } else {
            assert!(matches!(verdict, Err(PublishError::Returned(_))), "{n}: {verdict:?}");
        }
    }
    for (rest, queue) in [(1, topology.unrouted()), (2, topology.dead_letters())] {
        let expected: Vec<usize> = (0..300).filter(|n| n % 3 == rest).collect();
        assert_eq!(place.contents(&queue, expected.len()).await, expected, "{queue}");
    }
    link.close().await;
}

async fn status_without_a_consumer_is_kept(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    within("a confirm", link.publish(status(&topology, 1))).await.expect("confirmed");
    assert_eq!(place.contents(&topology.unrouted(), 1).await, [1]);
    link.close().await;
}

async fn publishing_goes_on_after_losses(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    let mut epoch = ready(&link, 0).await;
    for n in 0..150 {
        if n % 50 == 25 {
            // With this message in flight or not: `poll` starts it, the loss follows.
            let mut publishing = Box::pin(link.publish(dead_letter(&topology, n)));
            let early = publishing.as_mut().now_or_never();
            place.cut().await;
            let verdict = match early {
                Some(verdict) => verdict,
                None => within("a verdict", publishing).await,
            };
            epoch = ready(&link, epoch).await;
            match verdict {
                Ok(()) => continue,
                Err(PublishError::Lost(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        loop {
            match within("a verdict", link.publish(dead_letter(&topology, n))).await {
                Ok(()) => break,
                Err(PublishError::Lost(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
    // The mark is last, and each message before it is there at least once, in order.
    let mark = within("a verdict", link.publish(dead_letter(&topology, 150)));
    mark.await.expect("confirmed");
    let mut seen = place.contents(&topology.dead_letters(), 151).await;
    seen.dedup();
    assert!(seen.iter().copied().eq(0..seen.len()), "{seen:?}");
    link.close().await;
}

async fn what_names_an_epoch_does_not_outlive_it(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    let connected = ready(&link, 0).await;
    let old = link.publishing_epoch();
    within("a verdict", link.publish_in(Some(old), dead_letter(&topology, 0))).await.expect("confirmed");
    place.cut().await;
    ready(&link, connected).await;
    let verdict = within("a verdict", link.publish_in(Some(old), dead_letter(&topology, 1))).await;
    assert!(matches!(verdict, Err(PublishError::Lost(_))), "{verdict:?}");
    // the epoch ends when what was under way in it has its answer, not before
    within("a confirm", async { while link.publish_in(Some(link.publishing_epoch()), dead_letter(&topology, 2)).await.is_err() {} }).await;
    assert!(link.publishing_epoch() > old);
    assert_eq!(place.contents(&topology.dead_letters(), 2).await, [0, 2]);
    link.close().await;
}

async fn stopping_lets_settle_what_is_out(place: &impl Place) {
    let topology = place.topology().clone();
    let link = place.link(1).await;
    place.publish(report(&topology, 0)).await;
    place.publish(report(&topology, 1)).await;
    let out = next(&link, Lane::Reports).await;
    link.stop_consuming();
    for lane in [Lane::Reports, Lane::Surveys] {
        assert!(within("the end", link.next(lane)).await.is_none());
    }
    link.settle(out.token, Settlement::Ack);
    let published = link.publish(dead_letter(&topology, 0));
    within("a confirm", published).await.expect("still publishing");
    within("closing", link.close()).await;
    assert_eq!(*link.state().borrow(), LinkState::Closed);
    let late = link.publish(dead_letter(&topology, 1)).await;
    assert_eq!(late, Err(PublishError::Closed));
    let link = place.link(1).await;
    assert_eq!(number(&next(&link, Lane::Reports).await.message), 1);
    link.close().await;
}

async fn a_second_link_waits_for_the_first(place: &impl Place) {
    let first = place.link(1).await;
    let second = place.link(1).await;
    place.publish(report(place.topology(), 0)).await;
    let delivery = next(&first, Lane::Reports).await;
    assert!(second.next(Lane::Reports).now_or_never().is_none());
    drop(first);
    let again = next(&second, Lane::Reports).await;
    assert_eq!(number(&again.message), number(&delivery.message));
    assert!(again.redelivered);
    second.close().await;
}

mod rabbitmq_only {
    use std::time::Duration;

    use lapin::options::QueueDeclareOptions;
    use lapin::types::FieldTable;
    use remedyd::broker::HeaderValue;
    use remedyd::broker::amqp::connection::Connection;
    use remedyd::broker::amqp::settings::{TimeOuts, Tls};
    use remedyd::broker::amqp::{AmqpLink, Endpoint, declare};
    use remedyd::broker::topology::TENANT_HEADER;

    use super::support::rabbit::{Rabbit, URL};
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn closing_does_not_wait_for_a_broker_that_says_nothing() {
        let rabbit = Rabbit::new("closing_does_not_wait").await;
        let mut settings = rabbit.settings(1);
        settings.time_outs.close = Duration::from_millis(100);
        let link = AmqpLink::connect(settings).unwrap();
        ready(&link, 0).await;
        rabbit.publish(report(rabbit.topology(), 0)).await;
        let delivery = next(&link, Lane::Reports).await;
        rabbit.fall_silent();
        link.settle(delivery.token, Settlement::Ack);
        link.stop_consuming();
        // any other question to the broker may take ten seconds
        let closing = tokio::time::timeout(Duration::from_secs(8), link.close());
        closing.await.expect("the limit of closing holds");
        rabbit.clean().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cancelled_consumer_comes_back() {
        let place = Rabbit::new("a_cancelled_consumer").await;
        let link = place.link(1).await;
        let epoch = ready(&link, 0).await;
        // The link declares it again at its next connect.
        place.delete_queue(&place.topology().queue(0, Lane::Reports)).await;
        ready(&link, epoch).await;
        place.publish(report(place.topology(), 1)).await;
        assert_eq!(number(&next(&link, Lane::Reports).await.message), 1);
        link.close().await;
        place.clean().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_missing_exchange_loses_the_publication_and_not_the_link() {
        let place = Rabbit::new("a_missing_exchange").await;
        let link = place.link(1).await;
        let message = Message { exchange: format!("{}.missing", place.topology().prefix()), ..Message::default() };
        let verdict = within("a verdict", link.publish(message)).await;
        assert!(matches!(verdict, Err(PublishError::Lost(_))), "{verdict:?}");
        let published = link.publish(dead_letter(place.topology(), 1));
        within("a confirm", published).await.expect("confirmed");
        link.close().await;
        place.clean().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_tenant_has_one_partition_for_both_lanes() {
        const PARTITIONS: u16 = 3;
        const TENANTS: usize = 30;
        let place = Rabbit::partitioned("partitions", PARTITIONS).await;
        let topology = place.topology();
        let link = place.link(1).await;
        link.close().await;
        for tenant in 0..TENANTS {
            for event in [report(topology, tenant), survey(topology, tenant)] {
                let header = (TENANT_HEADER.to_owned(), HeaderValue::Text(format!("{tenant}.1")));
                let headers = vec![header];
                place.publish(Message { headers, ..event }).await;
            }
        }
        let mut used = 0;
        let mut seen = [0; TENANTS];
        for partition in 0..PARTITIONS {
            let surveys = topology.queue(partition, Lane::Surveys);
            let reports = topology.queue(partition, Lane::Reports);
            let tenants = place.all(&surveys).await;
            assert_eq!(place.all(&reports).await, tenants, "partition {partition}");
            used += usize::from(!tenants.is_empty());
            tenants.into_iter().for_each(|tenant| seen[tenant] += 1);
        }
        assert_eq!(seen, [1; TENANTS], "each tenant in one partition");
        assert!(used > 1, "tenants are shared out");
        place.clean().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn check_names_what_is_absent_and_what_differs() {
        let place = Rabbit::new("check").await;
        let url = std::env::var(URL).expect("looked at by Rabbit::new");
        let endpoint = Endpoint::parse(&url).expect("a valid URL");
        let (tls, time_outs) = (Tls::default(), TimeOuts::default());
        let connection = Connection::open(&endpoint, "test", &tls, time_outs).await.expect("open");
        let topology = place.topology();
        let found = async || {
            let differences = declare::check(&connection, topology).await.expect("checked");
            differences.iter().map(ToString::to_string).collect::<Vec<_>>()
        };

        let everything = topology.exchanges.len() + topology.queues.len();
        let absent = found().await;
        assert_eq!(absent.len(), everything, "{absent:?}");
        assert!(absent.iter().all(|line| line.ends_with(": absent")), "{absent:?}");
        // Looking has created nothing.
        assert_eq!(found().await.len(), everything);

        declare::apply(&connection, topology).await.expect("applied");
        assert_eq!(found().await, [""; 0]);
        declare::apply(&connection, topology).await.expect("applied again");

        let queue = topology.dead_letters();
        place.delete_queue(&queue).await;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let channel = place.channel().await;
        let declaring = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        declaring.await.expect("declared as a classic queue");
        let differing = found().await;
        assert_eq!(differing.len(), 1, "{differing:?}");
        assert!(differing[0].starts_with(&format!("queue {queue}: x-")), "{differing:?}");
        let refused = declare::apply(&connection, topology).await.expect_err("differs");
        assert!(refused.chain().contains(&queue), "{}", refused.chain());
        connection.close().await;
        place.clean().await;
    }
}

mod memory_only {
    use super::*;

    #[tokio::test]
    async fn publications_fail_as_told() {
        let place = InMemory::new();
        let link = place.link(1).await;
        let message = || dead_letter(place.topology(), 0);
        place.broker.nack_next(1);
        assert_eq!(link.publish(message()).await, Err(PublishError::Nacked));
        place.broker.return_next(1);
        let returned = link.publish(message()).await;
        assert!(matches!(returned, Err(PublishError::Returned(_))));
        assert_eq!(link.publish(message()).await, Ok(()));
        let queue = place.topology().dead_letters();
        assert_eq!(place.broker.messages(&queue).len(), 1);
    }

    #[tokio::test]
    async fn a_held_confirm_comes_with_the_release_or_is_lost() {
        let place = InMemory::new();
        let link = place.link(1).await;
        place.broker.hold_confirms();
        let mut held = Box::pin(link.publish(dead_letter(place.topology(), 0)));
        assert_eq!(held.as_mut().now_or_never(), None);
        place.broker.release_confirms();
        assert_eq!(within("the confirm", held).await, Ok(()));

        place.broker.hold_confirms();
        let mut held = Box::pin(link.publish(dead_letter(place.topology(), 1)));
        assert_eq!(held.as_mut().now_or_never(), None);
        place.broker.drop_connections();
        let lost = within("the loss", held).await;
        assert!(matches!(lost, Err(PublishError::Lost(_))), "{lost:?}");
        // Lost to us, not to the broker: that is what makes duplicates.
        let queue = place.topology().dead_letters();
        assert_eq!(place.broker.messages(&queue).len(), 2);
    }

    #[tokio::test]
    async fn down_and_blocked_make_publishing_wait() {
        let place = InMemory::new();
        let link = place.link(1).await;
        place.broker.go_down();
        assert_eq!(*link.state().borrow(), LinkState::Connecting);
        let mut waiting = Box::pin(link.publish(dead_letter(place.topology(), 0)));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        place.broker.block("memory");
        place.broker.come_up();
        let blocked = LinkState::Blocked { epoch: 2, reason: "memory".into() };
        assert_eq!(*link.state().borrow(), blocked);
        assert_eq!(waiting.as_mut().now_or_never(), None);
        place.broker.unblock();
        assert_eq!(within("the confirm", waiting).await, Ok(()));
    }

    #[tokio::test]
    async fn a_duplicate_comes_and_idle_waits_for_all() {
        let place = InMemory::new();
        let link = place.link(2).await;
        place.broker.duplicate_next(1);
        place.publish(report(place.topology(), 0)).await;
        let first = next(&link, Lane::Reports).await;
        let second = next(&link, Lane::Reports).await;
        assert_eq!(first.message, second.message);
        assert_eq!((first.redelivered, second.redelivered), (false, true));
        link.settle(first.token, Settlement::Ack);
        assert!(place.broker.idle().now_or_never().is_none());
        link.settle(second.token, Settlement::Ack);
        within("idle", place.broker.idle()).await;
    }
}
