"use strict";
// The title says what is compared; tests reach the parts by window.report.
document.title = `${data.files.map((file) => file.label).join(", ")}: comparison of results`;
document.querySelector("h1").textContent = data.files.map((file) => file.label).join(" against ");
window.report = { data, parts, plane };
