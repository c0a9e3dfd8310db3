// Formulas are set by MathJax, which docs/_hooks.py adds to the site. It has a megabyte, so only
// pages with formulas load it. Its menu is off because it would load files that the site leaves out.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]] },
  options: { enableMenu: false, ignoreHtmlClass: ".*", processHtmlClass: "arithmatex" },
};
if (document.querySelector(".arithmatex")) {
  const script = document.createElement("script");
  script.src = new URL("assets/mathjax/tex-chtml.js", document.currentScript.src);
  document.head.append(script);
}
