// Svelte as it comes: scripts in TypeScript are read by the compiler itself.
export default {};
