import { defineConfig } from "vite";

export default defineConfig({
  // Every address begins with a token that is only known when the viewer runs, so all links are relative.
  base: "./",
  build: {
    outDir: "../pathology/viewer/static",
    emptyOutDir: true,
    target: "es2022",
    // A page that is served from the machine it is shown on gains nothing from inlining, and the page's policy
    // allows only files of its own.
    assetsInlineLimit: 0,
    modulePreload: false,
    license: { fileName: "assets/licences.md" },
  },
});
