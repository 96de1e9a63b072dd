//! One file per command (a few share one).

pub mod backup;
pub mod codes;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod forget;
pub mod import;
pub mod init;
pub mod recommend;
pub mod reproduce;
pub mod serve;
pub mod train;
