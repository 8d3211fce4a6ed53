// The interactive viewer of report.html and of the web page, with what vendor/three/three.min.js offers as THREE.
"use strict";

class Viewer {
  // Draws on a canvas, when something has changed; turns once, unless somebody drags. Throws without WebGL.
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    this.renderer.setClearColor(0xffffff);
    this.scene = new THREE.Scene();
    this.scene.environment = new THREE.PMREMGenerator(this.renderer).fromScene(new THREE.RoomEnvironment()).texture;
    this.scene.environmentIntensity = 0.7;          // white stays below the brightest pixel
    this.camera = new THREE.PerspectiveCamera(33.8, 1, 0.01, 1000);
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls.enableDamping = this.controls.autoRotate = true;
    const stay = () => { this.controls.autoRotate = false; };
    this.controls.addEventListener("start", stay);
    setTimeout(stay, 60000 / this.controls.autoRotateSpeed);        // 2: a turn in 30 seconds
    this.changed = true;                            // whoever changes the scene says so
    this.renderer.setAnimationLoop(() => this.draw());
  }

  draw() {
    const { canvas, renderer, camera } = this, { clientWidth, clientHeight } = canvas, ratio = window.devicePixelRatio;
    if (canvas.width !== Math.round(clientWidth * ratio) || canvas.height !== Math.round(clientHeight * ratio)) {
      renderer.setPixelRatio(ratio);
      renderer.setSize(clientWidth, clientHeight, false);
      camera.aspect = clientWidth / clientHeight;
      camera.updateProjectionMatrix();
      this.changed = true;
    }
    if (this.controls.update() || this.changed) renderer.render(this.scene, camera);
    this.changed = false;
  }

  // Look at the middle of an object. distance: in units of its box's diagonal.
  lookAt(object, distance = 1.7) {
    const box = new THREE.Box3().setFromObject(object), size = box.getSize(new THREE.Vector3()).length();
    box.getCenter(this.controls.target);
    this.changed = true;
    this.camera.position.copy(this.controls.target).add(new THREE.Vector3(0, 0.25 * size, distance * size));
  }

  // Show a GLB, given as its bytes; shown(number of faces), or failed(error), is called afterwards.
  addMesh(bytes, shown, failed) {
    new THREE.GLTFLoader().parse(bytes.buffer, "", ({ scene: model }) => {
      const gray = new THREE.MeshStandardMaterial({ color: 0xcccccc, roughness: 0.9, side: 2 });
      let faces = 0;
      model.traverse(part => {
        if (part.isMesh) {
          faces += part.geometry.index.count / 3;
          part.userData.other = gray;
        }
      });
      this.model = model;
      this.scene.add(model);
      this.lookAt(model);
      shown(faces);
    }, failed);
  }

  // Show the mesh without its texture, or with it again.
  switchTexture() {
    this.changed = true;
    this.model?.traverse(part => {
      if (part.isMesh) [part.material, part.userData.other] = [part.userData.other, part.material];
    });
  }
}
