//! Every bound of the wire, and the argument for its number. Nothing but constants; a bound that is not
//! here does not exist. What is over one is dead-lettered `too_large` (depth: `malformed`; integers: `invalid`).

/// A message's body. Spec: 256 KiB; a full plan with a 64 KiB text fits several times.
pub const MESSAGE_BYTES: usize = 256 * 1024;

/// Nesting of objects and arrays, the outermost counted. Spec: 32; our deepest form needs 7.
/// It bounds the recursion of the parser and of everything that walks its result.
pub const DEPTH: usize = 32;

/// A string, in bytes of UTF-8 after unescaping; keys too. Spec: 4 KiB.
pub const TEXT_BYTES: usize = 4 * 1024;

/// A string whose key is `body`. Spec: 64 KiB.
pub const BODY_BYTES: usize = 64 * 1024;

/// `id`, `source`, `type`: AMQP short strings (message id, routing key) hold 255 bytes, so what is longer
/// could not have been a broker's own property either.
pub const ATTRIBUTE_BYTES: usize = 255;

/// Items of a plan, and ids in an approval. Spec: 200.
pub const REMEDIATIONS: usize = 200;

/// Footholds of a report. Spec: 200.
pub const FOOTHOLDS: usize = 200;

/// Ids in a survey's `footholds_present`: ten full reports on one host.
pub const FOOTHOLDS_PRESENT: usize = 10 * FOOTHOLDS;

/// Parameters of one item; the vendor's have one to three.
pub const PARAMETERS: usize = 64;

/// `indicator_types` of a report; the vendor knows about a dozen.
pub const INDICATOR_TYPES: usize = 64;

/// Codes of an item's `simulate`: 5 attempts of 3 tries, over six generations.
pub const SIMULATED_TRIES: usize = 100;

/// One code of `simulate`; the longest known has 18.
pub const OUTCOME_CODE_BYTES: usize = 64;

/// Ids, revisions, counts and both halves of `tenantid`: what every JSON reader can hold exactly (2^53).
pub const ID: u64 = 1 << 53;

/// Days of silence until an agent is unresponsive. Spec: 2 to 90; a laptop that is off for a day is nothing.
pub const UNRESPONSIVE_DAYS_LEAST: u16 = 2;
pub const UNRESPONSIVE_DAYS_MOST: u16 = 90;

/// A response time: from a minute, the unit, to a week (60 x 24 x 7); beyond that nobody is waiting.
pub const SLA_MINUTES: u16 = 10_080;

/// A rejection's detail: it becomes a header of the dead letter, next to others in one frame.
pub const DETAIL_BYTES: usize = 512;
