// The browser test: drives the console of a running server as a visitor would, on a desk and on a phone.
//
// SOMMELIER_URL is where `sommelier demo` answers (http://127.0.0.1:8000 if unset), CHROMIUM a browser's path.
// With SCREENSHOTS=folder it keeps pictures.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { chromium } from "playwright-core";

const address = process.env.SOMMELIER_URL ?? "http://127.0.0.1:8000";
const browserPath =
  process.env.CHROMIUM ??
  ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));
const pictures = process.env.SCREENSHOTS;

const SIZES = [
  { name: "desk", width: 1440, height: 1000 },
  { name: "phone", width: 360, height: 780 },
];

let browser;

before(async () => {
  browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });
});

after(() => browser?.close());

/** Ids of the slate, in order. */
const slate = (page) => page.locator("[data-test=slate] > li:not([inert])").evaluateAll((all) => all.map((li) => li.dataset.item));

/** Waits until the list is there, or is another than `old`. */
async function changed(page, old = []) {
  await page.waitForFunction(
    (old) => {
      const now = [...document.querySelectorAll("[data-test=slate] > li:not([inert])")].map((li) => li.dataset.item);
      const idle = document.querySelector("section[aria-busy=false] [data-test=slate]");
      return idle && now.length > 0 && now.join("\n") !== old;
    },
    old.join("\n"),
    { timeout: 20_000 },
  );
  return slate(page);
}

/** Covers that a browser has really drawn. */
const drawn = (page) =>
  page.locator("[data-test=slate] img.cover").evaluateAll((all) => all.filter((img) => img.complete && img.naturalWidth > 0).length);

async function picture(page, name) {
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

for (const { name, width, height } of SIZES) {
  describe(`at ${width} px`, () => {
    let page;
    const wrong = [];

    before(async () => {
      const context = await browser.newContext({ viewport: { width, height } });
      page = await context.newPage();
      page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
      page.on("pageerror", (error) => wrong.push(String(error)));
      page.on("request", (request) => {
        if (!request.url().startsWith(address) && !request.url().startsWith("data:")) wrong.push(`loads ${request.url()}`);
      });
      await page.goto(address);
      await changed(page);
    });

    test("picks a reader by taste and shows covers, scores and reasons", async () => {
      await page.locator("[data-test=pick]").click();
      await page.locator("#find-reader").fill("ghosts");
      const reader = page.locator("dialog .reader b").first();
      await reader.waitFor();
      const who = await reader.textContent();
      const old = await slate(page);
      await reader.click();
      await page.locator("dialog").waitFor({ state: "detached" });
      const items = await changed(page, old);
      assert.ok(items.length >= 10, `${items.length} items`);
      assert.equal(await page.locator("#who").textContent(), who);
      await page.waitForFunction(
        () => [...document.querySelectorAll("[data-test=slate] img.cover")].filter((img) => img.naturalWidth > 0).length >= 2,
      );
      for (let at = 0; at < 10; at++) await page.locator("[data-test=slate] > li:not([inert])").nth(at).scrollIntoViewIfNeeded();
      await page.waitForFunction(
        () => [...document.querySelectorAll("[data-test=slate] img.cover")].filter((img) => img.naturalWidth > 0).length >= 10,
      );
      assert.ok((await drawn(page)) >= 10);
      assert.match(await page.locator("[data-test=slate] .why").first().textContent(), /Because/);
      assert.match(await page.locator("[data-test=slate] .score").first().textContent(), /\d.*·/);
      assert.ok((await page.locator("details.box li button").count()) > 0, "no history");
      await page.evaluate(() => scrollTo(0, 0));
      await page.waitForTimeout(600);
      await picture(page, `${name}-reader`);
    });

    test("a click changes the list and says how", async () => {
      const old = await slate(page);
      await page.locator("[data-test=slate] > li:not([inert]) .take").nth(1).click();
      const items = await changed(page, old);
      assert.ok(!items.includes(old[1]), "what was taken is still recommended");
      assert.match(await page.locator(".told").textContent(), /new|moved/);
      await page.waitForTimeout(600);
      await picture(page, `${name}-after`);
    });

    test("filters hold, and more brings others", async () => {
      const old = await slate(page);
      await page.locator(".chip", { hasText: "Poetry" }).click();
      const items = await changed(page, old);
      const bad = [];
      for (const id of items.slice(0, 5)) {
        const item = await page.evaluate(async (id) => (await fetch(`/v1/items/${encodeURIComponent(id)}`)).json(), id);
        if (!item.properties.genres.includes("Poetry")) bad.push(id);
      }
      assert.deepEqual(bad, []);
      await page.locator(".chip", { hasText: "Poetry" }).click();
      const all = await changed(page, items);
      await page.getByRole("button", { name: "More", exact: true }).click();
      const longer = await changed(page, all);
      assert.ok(longer.length > all.length);
      assert.equal(new Set(longer).size, longer.length, "an item comes twice");
    });

    test("search finds a title", async () => {
      const old = await slate(page);
      await page.locator("#wish").fill("Moby-Dick");
      await page.locator("#wish").press("Enter");
      const items = await changed(page, old);
      assert.ok(items.slice(0, 3).includes("moby-dick"), items.slice(0, 3).join());
    });

    test("the drawer shows what is similar", async () => {
      await page.locator("[data-test=slate] .acts button").first().click();
      await page.locator(".near li button").nth(3).waitFor();
      await picture(page, `${name}-similar`);
      await page.keyboard.press("Escape");
      await page.locator("dialog").waitFor({ state: "detached" });
      await page.getByRole("button", { name: "Back to recommendations" }).click();
    });

    test("somebody new is served at once, and from the first click on by taste", async () => {
      await page.locator("[data-test=pick]").click();
      await page.locator("#new-name").fill("Zoë <b>&");
      await page.locator("[data-test=become-new]").click();
      await page.locator("dialog").waitFor({ state: "detached" });
      const first = await changed(page);
      assert.equal(await page.locator("#who").textContent(), "Zoë <b>&");
      assert.match(await page.locator(".banner").first().textContent(), /Fallback/);
      await page.locator("[data-test=slate] > li:not([inert]) .take").first().focus();
      await page.keyboard.press("Enter");
      await changed(page, first);
      await page.waitForFunction(() => document.querySelector("[data-test=slate] .why")?.textContent.includes("Because"));
      assert.equal(await page.locator("details.box li button").count(), 1);
      await picture(page, `${name}-new`);
    });

    test("the leaderboard has at least five models with intervals", async () => {
      const rows = page.locator("table tbody tr");
      await rows.nth(4).waitFor();
      assert.ok((await rows.locator(".range").count()) >= 5);
      await rows.first().scrollIntoViewIfNeeded();
      await picture(page, `${name}-leaderboard`);
    });

    test("nothing is wider than the screen, and nothing went wrong", async () => {
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
      assert.deepEqual(wrong, []);
    });
  });
}
