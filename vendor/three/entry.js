// What the page of tools/_html_report.py uses of three.js; README.md says how three.min.js is made.
export { Box3, MeshStandardMaterial, PMREMGenerator, PerspectiveCamera, Scene, Vector3, WebGLRenderer } from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
export { RoomEnvironment } from "three/examples/jsm/environments/RoomEnvironment.js";
export { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
