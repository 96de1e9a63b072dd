//! The sample world: real public-domain books as facts, simulated readers with documented tastes, and their covers.
//!
//! ```
//! let world = sommelier_data::world::world(1);
//! assert!(world.items.len() > 400 && world.users.len() == 2000);
//! assert!(world.users.iter().all(|u| u.properties["simulated"] == true));
//! let svg = sommelier_data::world::cover(&world.items[0]);
//! assert!(svg.starts_with("<svg"));
//! ```

mod books;
mod covers;
mod lettering;
mod readers;

pub use books::{Book, GENRES, MOODS, books};
pub use covers::cover;
pub use readers::{END, READERS, Reader, START, readers, rules, world};

use sommelier_core::{Event, Item, User};

/// Everything the demo imports.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub items: Vec<Item>,
    pub users: Vec<User>,
    /// In order of time.
    pub events: Vec<Event>,
}
