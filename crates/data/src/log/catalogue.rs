//! Items, users and slates: their newest revisions, in the order of their ids.

use super::commit::{Done, Write};
use super::record::{Entry, StoredSlate, id_prefix};
use super::{Log, LogError, Reader, SlateRecord};
use crate::store::Table;
use serde::de::DeserializeOwned;
use sommelier_core::{Item, User, check_id};
use std::ops::Bound;
use std::sync::Arc;

impl Log {
    /// Stores a revision of each item; each replaces the item whole.
    pub fn put_items(&self, items: Vec<Item>) -> Result<(), LogError> {
        items.iter().try_for_each(|item| check_id("item", &item.id))?;
        self.write(items.is_empty(), Write::Items(items))
    }

    pub fn item(&self, id: &str) -> Result<Option<Item>, LogError> {
        self.inner.read()?.newest(Table::Items, id)
    }

    /// False where there was no such item.
    pub fn delete_item(&self, id: &str) -> Result<bool, LogError> {
        self.delete(true, id)
    }

    /// Up to `limit` items in the order of their ids, those after `after`.
    pub fn items(&self, after: Option<&str>, limit: usize) -> Result<Vec<Item>, LogError> {
        self.inner.read()?.page(Table::Items, after, limit)
    }

    /// Ids of items whose newest revision is a deletion, or which were erased.
    pub fn items_deleted(&self) -> Result<Vec<String>, LogError> {
        let reader = self.inner.read()?;
        let mut ids = Vec::new();
        reader.scan(Table::Items, Bound::Unbounded, Bound::Unbounded, false, |key, value| {
            if reader.unseal::<Entry>(Table::Items, key, value)?.json.is_none() {
                ids.push(String::from_utf8_lossy(key).into_owned());
            }
            Ok(true)
        })?;
        Ok(ids)
    }

    /// Stores a revision of each user; each replaces the user whole.
    pub fn put_users(&self, users: Vec<User>) -> Result<(), LogError> {
        users.iter().try_for_each(|user| check_id("user", &user.id))?;
        self.write(users.is_empty(), Write::Users(users))
    }

    pub fn user(&self, id: &str) -> Result<Option<User>, LogError> {
        self.inner.read()?.newest(Table::Users, id)
    }

    /// Deletes the properties; the user's events stay. [`Log::erase`] removes everything.
    pub fn delete_user(&self, id: &str) -> Result<bool, LogError> {
        self.delete(false, id)
    }

    pub fn users(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>, LogError> {
        self.inner.read()?.page(Table::Users, after, limit)
    }

    /// Stores slates that were shown.
    pub fn record_slates(&self, slates: Vec<Arc<SlateRecord>>) -> Result<(), LogError> {
        for slate in &slates {
            check_id("slate", &slate.slate.id)?;
            if let Some(user) = slate.user.as_ref().or(slate.query.user.as_ref()) {
                check_id("user", user)?;
            }
        }
        self.write(slates.is_empty(), Write::Slates(slates))
    }

    pub fn slate(&self, id: &str) -> Result<Option<SlateRecord>, LogError> {
        let reader = self.inner.read()?;
        let stored: Option<StoredSlate> = reader.read(Table::Slates, id.as_bytes())?;
        stored.map(|s| reader.parse(Table::Slates, id.as_bytes(), &s.json)).transpose()
    }

    fn write(&self, nothing: bool, write: Write) -> Result<(), LogError> {
        if !nothing {
            self.inner.submit(write)?;
        }
        Ok(())
    }

    fn delete(&self, item: bool, id: &str) -> Result<bool, LogError> {
        let done = self.inner.submit(Write::Delete(item, id.to_owned()))?;
        Ok(matches!(done, Done::Deleted(true)))
    }
}

impl Reader<'_> {
    fn newest<T: DeserializeOwned>(&self, table: Table, id: &str) -> Result<Option<T>, LogError> {
        let entry: Option<Entry> = self.read(table, id.as_bytes())?;
        let json = entry.and_then(|e| e.json);
        json.map(|json| self.parse(table, id.as_bytes(), &json)).transpose()
    }

    pub(super) fn parse<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
        json: &str,
    ) -> Result<T, LogError> {
        serde_json::from_str(json).map_err(|e| self.inner.damaged_value(table, key, &e.to_string()))
    }

    pub(super) fn page<T: DeserializeOwned>(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<T>, LogError> {
        let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes()));
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        self.scan(table, from, Bound::Unbounded, false, |key, value| {
            if let Some(json) = self.unseal::<Entry>(table, key, value)?.json {
                page.push(self.parse(table, key, &json)?);
            }
            Ok(page.len() < limit)
        })?;
        Ok(page)
    }
}

/// Length-prefixed user, then the slate's id.
pub(super) fn user_slate_key(user: &str, slate: &str) -> Vec<u8> {
    let mut key = id_prefix(user);
    key.extend_from_slice(slate.as_bytes());
    key
}
